"""Agents that break the protocol are closed with a code and a reason, and nothing else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from edgedraft import wire
from edgedraft.links.settings import AGENT_ENDPOINT
from edgedraft.wire import MAX_DRAFT_NODES, MAX_WINDOW, Draft, Hello, Open
from tests.gateway.api.test_chat import complete, user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.scripted_agent import ScriptedAgent
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import FINGERPRINT, VOCAB_SIZE, card
from tests.support.waiting import until

BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": 40, "seed": 3}


@pytest.fixture
async def slow(gateway: Gateway, verifier: ScriptedVerifier) -> ScriptedVerifier:
    verifier.step, verifier.draft_wait = 0.005, 0.01
    return verifier


async def session_of(agent: ScriptedAgent) -> Open:
    await until(lambda: agent.opened)
    return agent.opened[0]


def draft(session: int, tokens: list[int], parents: list[int], epoch: int = 1, at: int = 0, first: int = 1) -> Draft:
    return Draft(session, epoch, at, first, tokens, parents, bytes(len(tokens)))


@pytest.mark.parametrize("key", ["", "ed-wrong"])
async def test_a_wrong_key_is_denied_in_http(gateway: Gateway, key: str) -> None:
    with pytest.raises(InvalidStatus) as denied:
        await gateway.agent(key).dial()
    assert denied.value.response.status_code == 401
    assert msgspec.json.decode(denied.value.response.body or b"")["error"]["code"] == "invalid_api_key"
    assert denied.value.response.headers["x-request-id"]


async def test_a_key_without_the_edge_scope_is_denied(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "default", ["inference"])
    with pytest.raises(InvalidStatus) as denied:
        await gateway.agent(key).dial()
    assert denied.value.response.status_code == 403


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1not messagepack", wire.BAD_FRAME),
        (b"", wire.BAD_FRAME),
        ("text", wire.BAD_FRAME),
        (wire.encode_frame([draft(1, [1], [0])]), wire.BAD_FRAME),
        (wire.encode_frame([Hello(wire.PROTOCOL + 1)]), wire.VERSION),
        (wire.encode_frame([Hello(wire.PROTOCOL, "x", "another tokenizer")]), wire.TOKENIZER_MISMATCH),
        (b"\x91" * 100_000, wire.BAD_FRAME),
        (bytes(wire.MAX_AGENT_FRAME + 1), wire.TOO_LARGE),
    ],
)
async def test_a_bad_greeting_is_closed_with_a_reason(gateway: Gateway, frame: bytes | str, code: int) -> None:
    agent = gateway.agent()
    await agent.dial()
    await agent.connection.send(frame)
    closed, reason = await agent.closing()
    assert closed == code
    assert reason
    if code == wire.TOKENIZER_MISMATCH:
        assert "another toke" in reason
        assert FINGERPRINT[:12] in reason


async def test_an_agent_that_does_not_greet_is_closed(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.agent_endpoint.SETTINGS", replace(AGENT_ENDPOINT, greeting_timeout=0.1))
    agent = gateway.agent()
    await agent.dial()
    assert (await agent.closing())[0] == wire.TIMEOUT


async def test_without_a_verifier_it_is_told_to_come_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.agent_endpoint.FIRST_VERIFIER_SECONDS", 0.1)
    async with running_gateway(tmp_path, verifier=["ws://127.0.0.1:9"]) as gateway:
        agent = await gateway.agent().__aenter__()
        assert (await agent.closing())[0] == 1013


async def test_more_agents_than_allowed_are_closed(tmp_path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, max_agents_per_owner=1) as gateway, gateway.agent() as first:
        second = await gateway.agent().__aenter__()
        assert (await second.closing())[0] == wire.TOO_MANY
        await first.die()
        await until(lambda: not gateway.state.metrics.agents._value.get())
        async with gateway.agent() as third:
            assert third.welcome


async def test_a_revoked_key_ends_its_agents(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.05)
    key = await gateway.accounts.create("ann", "default", ["edge"])
    async with gateway.agent(key) as agent:
        assert await gateway.accounts.revoke((await gateway.accounts.list())[0].id)
        assert await agent.closing() == (wire.UNAUTHORIZED, "the key was revoked")


Fault = Callable[[int], Draft]
FAULTS: dict[str, tuple[Fault, int, str]] = {
    "a foreign session": (lambda s: draft(s + 1, [1], [0]), wire.FORBIDDEN, "session 2 was never opened here"),
    "a token outside the vocabulary": (lambda s: draft(s, [VOCAB_SIZE], [0]), wire.VIOLATION, "outside the vocabulary"),
    "a parent that does not exist": (lambda s: draft(s, [1, 2], [0, 7]), wire.VIOLATION, "has parent 7"),
    "a node that is its own parent": (lambda s: draft(s, [1, 2], [0, 2]), wire.VIOLATION, "has parent 2"),
    "a cycle": (lambda s: draft(s, [1, 2], [2, 1]), wire.VIOLATION, "has parent 2"),
    "more than the window": (
        lambda s: draft(s, [MAX_WINDOW], [0], first=MAX_WINDOW + 1),
        wire.VIOLATION,
        f"more than {MAX_WINDOW}",
    ),
    "columns of different length": (lambda s: Draft(s, 1, 0, 1, [1, 2], [0], b"\0"), wire.VIOLATION, "columns"),
    "a place in the future": (lambda s: draft(s, [1], [0], at=1000), wire.VIOLATION, "past the"),
    "an epoch far ahead": (lambda s: draft(s, [1], [0], epoch=2**40), wire.VIOLATION, "too far above"),
    "no tokens": (lambda s: Draft(s, 1, 0, 1, [], [], b""), wire.BAD_FRAME, ""),
    "more nodes than a draft holds": (lambda s: draft(s, [1] * 65, [0] * 65), wire.BAD_FRAME, ""),
    "a negative token": (lambda s: draft(s, [-1], [0]), wire.BAD_FRAME, ""),
    "a negative parent": (lambda s: draft(s, [1], [-1]), wire.BAD_FRAME, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_faulty_draft_closes_its_agent_and_disturbs_nothing_else(
    gateway: Gateway, slow: ScriptedVerifier, fault: str
) -> None:
    make, code, words = FAULTS[fault]
    ann = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    async with gateway.agent(ann) as bystander, gateway.agent(mute=True) as agent, gateway.http(ann) as http:
        hers = asyncio.create_task(http.post("/v1/chat/completions", json={"model": "toy"} | BABBLE))
        await until(lambda: bystander.opened)
        ours = asyncio.create_task(complete(gateway, **BABBLE))
        opened = await session_of(agent)
        faulty = [make(opened.session)]
        if fault == "more than the window":
            at, count = len(agent.committed[1]), MAX_DRAFT_NODES
            faulty = [
                *(
                    draft(opened.session, [*range(n, n + count)], [0] * count, at=at, first=n + 1)
                    for n in range(0, MAX_WINDOW, count)
                ),
                msgspec.structs.replace(faulty[0], at=at),
            ]
        await agent.say(faulty)
        closed, reason = await agent.closing()
        assert closed == code
        assert reason
        assert words in reason
        got = await ours
        assert got["choices"][0]["finish_reason"] == "length"
        assert got["usage"]["completion_tokens"] == 40
        answer = (await hers).json()
        assert answer["choices"][0]["message"]["content"] == got["choices"][0]["message"]["content"]
        assert answer["edgedraft"]["mode"] == "edge"
    assert not slow.violations


async def test_drafts_for_a_session_that_has_ended_are_late_and_ignored(
    gateway: Gateway, slow: ScriptedVerifier
) -> None:
    async with gateway.agent(mute=True) as agent:
        await complete(gateway, **BABBLE)
        await agent.say([draft(1, [1], [0]), draft(1, [VOCAB_SIZE], [0])])
        got = await complete(gateway, **BABBLE)
        assert got["edgedraft"]["mode"] == "edge"
        assert agent.connection.close_code is None


async def test_a_second_hello_is_a_bad_frame(gateway: Gateway) -> None:
    async with gateway.agent() as agent:
        await agent.say([Hello(wire.PROTOCOL)])
        assert (await agent.closing())[0] == wire.BAD_FRAME


async def test_a_frame_too_large_in_mid_session(gateway: Gateway, slow: ScriptedVerifier) -> None:
    async with gateway.agent(mute=True) as agent:
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await session_of(agent)
        await agent.connection.send(bytes(wire.MAX_AGENT_FRAME + 1))
        assert (await agent.closing())[0] == wire.TOO_LARGE
        assert (await task)["usage"]["completion_tokens"] == 40


async def test_other_models_agents_get_no_sessions(tmp_path, verifier: ScriptedVerifier) -> None:
    async with (
        ScriptedVerifier(card=card(name="other", mark="another")) as other,
        running_gateway(tmp_path, verifier, other) as gateway,
        gateway.agent(KEY, fingerprint="another") as agent,
    ):
        assert agent.welcome
        assert agent.welcome.model == "other"
        assert (await complete(gateway, **BABBLE))["edgedraft"]["mode"] == "datacenter"
        assert not agent.opened


async def test_plain_http_at_the_agents_endpoint_is_no_websocket(gateway: Gateway) -> None:
    async with gateway.http() as http:
        assert (await http.get("/v1/agent")).status_code == 404
    with pytest.raises(InvalidStatus):
        await connect(gateway.url.replace("http", "ws") + "/v1/none", proxy=None)
