"""Verifiers that die, are silent, fail or reject: the text continues unchanged, or ends with an error."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from edgedraft.wire import PROTOCOL
from gateway.verifiers.discovery import VerifierAddress
from tests.gateway.api.test_chat import chunks, complete, events, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

LIMIT = 80
BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": LIMIT, "seed": 11, "temperature": 0.8}
ALONE = toy_model.TOKENIZER.decode(
    toy_model.complete_text(
        toy_model.chat_prompt(("user", "babble")), toy_model.Sampling(temperature=0.8, seed=11), LIMIT
    )
)


@pytest.fixture
async def spare() -> AsyncIterator[ScriptedVerifier]:
    async with ScriptedVerifier() as verifier:
        yield verifier


def streamed(got: list[dict[str, Any]]) -> str:
    assert got[-1]["choices"][0]["finish_reason"] == "length"
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got)


@pytest.mark.parametrize("trouble", ["die_at", "silent_at", "fail_at", "garble_at"])
@pytest.mark.parametrize("at", [0, 30])
@pytest.mark.parametrize("edge", [False, True])
async def test_another_verifier_goes_on_where_the_first_stopped(
    tmp_path, verifier: ScriptedVerifier, spare: ScriptedVerifier, trouble: str, at: int, edge: bool
) -> None:
    setattr(verifier, trouble, at)
    verifier.draft_wait = spare.draft_wait = 0.1
    async with running_gateway(tmp_path, verifier, spare, silence_timeout=0.7) as gateway:
        if not edge:
            assert streamed(await chunks(gateway, **BABBLE)) == ALONE
        else:
            async with gateway.agent(wrong_every=5) as agent:
                got = await chunks(gateway, **BABBLE)
                assert streamed(got) == ALONE
                assert got[-1]["edgedraft"]["mode"] == "edge"
                assert len(agent.committed[1]) == LIMIT
                if at:
                    # Begun again once, under its number, with what was committed.
                    assert [opened.session for opened in agent.opened] == [1, 1]
                    assert len(agent.opened[1].committed) >= at
                assert sum(commit.accepted for commit in spare.commits) > 10
    assert len(verifier.opened) == len(spare.opened) == 1
    assert len(spare.opened[0].committed) >= at
    assert bool(spare.opened[0].agent) == edge
    assert all(draft.epoch > spare.opened[0].epoch for draft in spare.drafts)
    assert not verifier.violations
    assert not spare.violations


async def test_the_same_verifier_come_back_will_do(tmp_path) -> None:
    async with (
        ScriptedVerifier(die_at=30) as verifier,
        running_gateway(tmp_path, verifier, silence_timeout=60) as gateway,
    ):
        task = asyncio.create_task(chunks(gateway, **BABBLE))
        await until(lambda: not verifier.connections and verifier.opened)
        async with ScriptedVerifier(port=verifier.port) as again:
            assert streamed(await task) == ALONE
            assert len(again.opened[0].committed) == 30
            assert await complete(gateway, **BABBLE)


async def test_with_no_verifier_left_a_stream_ends_with_an_error_and_not_like_success(tmp_path) -> None:
    async with (
        ScriptedVerifier(die_at=30) as verifier,
        running_gateway(tmp_path, verifier, open_timeout=0.2) as gateway,
    ):
        *texts, error, done = await events(gateway, **BABBLE, stream_options={"include_usage": True})
        assert done == "[DONE]"
        assert json.loads(error)["error"]["type"] == "server_error"
        assert json.loads(error)["error"]["message"]
        assert all(json.loads(text)["choices"][0]["finish_reason"] is None for text in texts)
        async with gateway.http() as http:
            response = await http.post("/v1/chat/completions", json={"model": "toy"} | BABBLE)
            assert response.status_code == 503
            assert (await http.get("/v1/models")).json()["data"][0]["id"] == "toy"
            assert (await http.get("/readyz")).status_code == 503


async def test_an_overloaded_verifier_is_left_for_one_with_room(tmp_path, spare: ScriptedVerifier) -> None:
    async with (
        ScriptedVerifier(refuse="overloaded") as full,
        running_gateway(tmp_path, full, spare) as gateway,
    ):
        assert streamed(await chunks(gateway, **BABBLE)) == ALONE
        assert len(full.opened) <= 1


async def test_a_request_is_turned_away_at_once_when_all_are_full_and_told_when_to_come_again(tmp_path) -> None:
    async with (
        ScriptedVerifier(refuse="overloaded", retry_after=7.4) as one,
        ScriptedVerifier(refuse="overloaded", retry_after=20) as other,
        running_gateway(tmp_path, one, other) as gateway,
        gateway.http() as http,
    ):
        for stream in (False, True):
            response = await http.post("/v1/chat/completions", json={"model": "toy", "stream": stream} | BABBLE)
            assert response.status_code == 429
            assert response.json()["error"]["code"] == "overloaded"
            assert response.headers["retry-after"] == "8", "the soonest, in whole seconds, never too soon"
        assert len(one.opened) == len(other.opened) == 2


async def test_who_waits_longer_than_the_gateway_lets_them_is_turned_away(tmp_path) -> None:
    async with (
        ScriptedVerifier(max_sessions=1, max_waiting=3, step=30) as verifier,
        running_gateway(tmp_path, verifier, open_timeout=0.5, silence_timeout=30) as gateway,
        gateway.http() as http,
    ):
        first = asyncio.create_task(http.post("/v1/chat/completions", json={"model": "toy"} | BABBLE))
        await until(lambda: verifier.opened)
        response = await http.post("/v1/chat/completions", json={"model": "toy"} | BABBLE)
        assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
        await until(lambda: verifier.cancelled)
        first.cancel()


async def test_a_full_verifier_is_waited_for(tmp_path) -> None:
    async with (
        ScriptedVerifier(max_sessions=2, max_waiting=3) as verifier,
        running_gateway(tmp_path, verifier, open_timeout=5, silence_timeout=0.2) as gateway,
    ):
        got = await asyncio.gather(*(complete(gateway, **BABBLE) for _ in range(5)))
        assert {answer["choices"][0]["message"]["content"] for answer in got} == {ALONE}
        assert len(verifier.opened) == 5
        assert all(opened.session <= 5 for opened in verifier.opened)


async def test_sessions_go_where_fewest_run(tmp_path, verifier: ScriptedVerifier, spare: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, spare) as gateway:
        await complete(gateway, **BABBLE, n=6)
    assert len(verifier.opened) == len(spare.opened) == 3


async def test_a_verifier_that_does_not_fit_is_not_used(
    tmp_path, verifier: ScriptedVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ScriptedVerifier(protocol=PROTOCOL + 1) as newer,
        ScriptedVerifier(card=toy_model.card(mark="another tokenizer")) as different,
        ScriptedVerifier(token="secret") as closed,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        pool = gateway.state.verifiers
        for other in (newer, different, closed):
            pool.add(VerifierAddress(other.url))
        await until(lambda: caplog.messages.count("verifier not used") >= 3)
        assert gateway.state.metrics.verifiers._value.get() == 1
        await complete(gateway, **BABBLE, n=4)
        assert len(verifier.opened) == 4
        assert not newer.opened + different.opened + closed.opened


async def test_a_verifiers_token_is_presented(tmp_path) -> None:
    async with (
        ScriptedVerifier(token="secret") as verifier,
        running_gateway(tmp_path, verifier, verifier_token="secret") as gateway,
    ):
        assert await complete(gateway, **BABBLE)


async def test_a_name_that_nobody_serves_any_more_may_mean_another_model(tmp_path) -> None:
    async with ScriptedVerifier() as old, running_gateway(tmp_path, old) as gateway:
        await old.stop()
        async with ScriptedVerifier(port=old.port, card=toy_model.card(mark="another", context_length=512)):
            await until(lambda: gateway.state.verifiers.ready)
            async with gateway.http() as http:
                assert (await http.get("/v1/models/toy")).json()["max_model_len"] == 512
            assert await complete(gateway, **BABBLE)


async def test_a_request_before_the_first_verifier_is_served_by_it(tmp_path) -> None:
    async with ScriptedVerifier() as probe:
        port = probe.port
    async with running_gateway(tmp_path, verifier=[f"ws://127.0.0.1:{port}"]) as gateway:
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await asyncio.sleep(0.1)
        async with ScriptedVerifier(port=port):
            assert (await task)["choices"][0]["message"]["content"] == ALONE


async def test_a_card_that_unpacks_to_too_much_is_not_used(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.model.tokenizer.MAX_TOKENIZER_BYTES", 1000)
    card = toy_model.card(name="bomb")
    own = zlib.compress(zlib.decompress(card.tokenizer) + b"\n")  # that no other model has loaded
    async with ScriptedVerifier(card=msgspec.structs.replace(card, tokenizer=own)) as bomb:
        pool = gateway.state.verifiers
        pool.add(VerifierAddress(bomb.url))
        await until(lambda: "verifier not used" in caplog.messages)
        assert pool.catalog.get("bomb") is None
        assert await complete(gateway, **BABBLE)


async def test_a_verifier_that_joined_a_moment_ago_is_not_waited_for(gateway: Gateway) -> None:
    async with asyncio.timeout(30):
        await gateway.state.verifiers.wait_for_model(60)
