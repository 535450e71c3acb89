"""Several gateways and a real Valkey: an agent drafts for its owner's requests at every replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgedraft import wire
from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.gateway.ledger.test_ledger import ended
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

SECRET = "replicas-of-the-tests"
BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": 120, "seed": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.replicas.directory.RENEW_SECONDS", 0.1)
    monkeypatch.setattr("gateway.replicas.directory.LEASE_SECONDS", 0.5)
    monkeypatch.setattr("gateway.replicas.remote_agents.RETRY_SECONDS", 0.2)
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.1)
    monkeypatch.setattr("gateway.agents.registry.MOVE_SECONDS", 0.1)


def text_of(got: dict[str, Any]) -> str:
    return got["choices"][0]["message"]["content"]


def joined(got: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got)


@asynccontextmanager
async def replicas(
    folder: Path, valkey: ValkeyServer, verifier: ScriptedVerifier, count: int, known: int = 0, **options: Any
) -> AsyncIterator[list[Gateway]]:
    """`count` gateways, once the directory has `known` replicas, or `count` if that is 0."""
    shared = {"redis": valkey.url, "replica_secret": SECRET, "replica_port": 0} | options
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(running_gateway(folder, verifier, **shared)) for _ in range(count)]
        await until(lambda: valkey.client.zcard("edgedraft:replicas") == (known or count))
        yield gateways


@pytest.fixture
async def pair(tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier) -> AsyncIterator[list[Gateway]]:
    verifier.draft_wait = 2.0
    async with replicas(tmp_path, valkey, verifier, 2) as gateways:
        yield gateways


@pytest.fixture
async def alone(pair: list[Gateway]) -> str:
    """What the verifier writes without any agent."""
    return text_of(await complete(pair[0], **BABBLE))


def number(metric: Any) -> float:
    return metric._value.get()


async def test_a_request_is_served_through_the_replica_that_has_the_agent(
    pair: list[Gateway], verifier: ScriptedVerifier, alone: str
) -> None:
    here, there = pair
    async with there.agent(wrong_every=5) as agent:
        assert text_of(await complete(here, **BABBLE)) == alone
        got = await complete(here, **BABBLE)
        assert text_of(got) == alone
        assert got["edgedraft"]["accepted"] > 20
        await until(lambda: agent.closed == [1, 2])
        assert agent.committed[2] == agent.committed[1]
        assert len(agent.committed[1]) == 120
        assert not verifier.violations
        assert number(here.state.metrics.replicas) == 1
        assert number(there.state.metrics.remote_sessions) == 0
        several = await complete(here, **BABBLE, n=4)
        assert several["edgedraft"]["accepted"] > 100
    drafted = [row for row in await ended(here.state.database, 4) if row.agent_owner]
    assert len(drafted) == 3
    assert all(0 < row.agent_ns < 10e9 for row in drafted)


async def test_own_agents_come_first(pair: list[Gateway]) -> None:
    here, there = pair
    async with there.agent() as far, here.agent() as near:
        await complete(here, **BABBLE)
        assert near.opened
        assert not far.opened


async def test_no_prompt_goes_to_anybody_elses_agent(pair: list[Gateway]) -> None:
    here, there = pair
    ann = await there.accounts.create("ann", "default", ["inference", "edge"])
    namesake = await there.accounts.create("default", "acme", ["inference", "edge"])
    async with there.agent(ann) as hers, there.agent(namesake) as theirs:
        assert (await complete(here, **BABBLE))["edgedraft"]["mode"] == "datacenter"
        assert not hers.opened + theirs.opened
        assert not number(there.state.metrics.remote_sessions)
        async with there.agent(KEY, fingerprint=""):
            assert (await complete(here, **BABBLE))["edgedraft"]["mode"] != "datacenter"
        assert not hers.opened + theirs.opened


async def test_an_agent_that_attaches_late_to_another_replica_joins(
    pair: list[Gateway], verifier: ScriptedVerifier, alone: str
) -> None:
    here, there = pair
    verifier.step = 0.02
    task = asyncio.create_task(complete(here, **BABBLE))
    await until(lambda: len(verifier.commits) > 130)
    async with there.agent() as agent:
        await until(lambda: agent.opened)
        assert len(agent.opened[0].committed) >= 10
        got = await task
    assert text_of(got) == alone
    assert got["edgedraft"]["mode"] == "mixed"
    assert got["edgedraft"]["accepted"] > 0


async def test_agents_of_a_replica_that_shuts_down_draft_on_from_another(
    pair: list[Gateway], verifier: ScriptedVerifier, valkey: ValkeyServer, alone: str
) -> None:
    here, there = pair
    verifier.step = 0.03
    async with there.agent(wrong_every=2) as agent:
        task = asyncio.create_task(chunks(here, **BABBLE))
        own = asyncio.create_task(chunks(there, **BABBLE))
        await until(lambda: len(agent.opened) == 2 and all(len(c) > 10 for c in agent.committed.values()))
        verifier.step = 0.15
        draining = asyncio.create_task(there.state.drain.run())
        assert (await agent.closing())[0] == wire.MOVE
        async with here.agent() as moved:
            await until(lambda: len(moved.opened) == 2)
            verifier.step = 0.002
            assert all(len(opened.committed) > 10 for opened in moved.opened)
            assert joined(await task) == joined(await own) == alone
            await draining
        await asyncio.sleep(0.3)
        assert valkey.client.zcard("edgedraft:replicas") == 1, "the lease is not taken again"
        assert not verifier.violations


@pytest.mark.parametrize("how", ["agent", "replica", "link"])
async def test_a_lost_agent_replica_or_link_costs_no_text(
    pair: list[Gateway], verifier: ScriptedVerifier, alone: str, how: str
) -> None:
    here, there = pair
    verifier.step = 0.01
    async with there.agent(wrong_every=3) as agent:
        task = asyncio.create_task(chunks(here, **BABBLE))
        await until(lambda: agent.committed and len(agent.committed[1]) > 20)
        replicas = there.state.replicas
        assert replicas
        if how == "agent":
            await agent.die()
        elif how == "replica":
            await replicas.stop()
        else:
            assert replicas._endpoint._server
            for connection in list(replicas._endpoint._server.connections):
                connection.transport.abort()
        got = await task
        assert joined(got) == alone
        assert got[-1]["edgedraft"]["mode"] == "mixed" or how == "link"
        if how == "link":  # dialled again, for the directory still names it
            await until(lambda: len(agent.opened) >= 2)
        await until(lambda: number(there.state.metrics.remote_sessions) == 0)
        assert not verifier.violations


async def test_without_the_store_streams_go_on_and_with_it_back_agents_are_found_again(
    pair: list[Gateway], verifier: ScriptedVerifier, valkey: ValkeyServer, alone: str
) -> None:
    here, there = pair
    verifier.step = 0.02
    async with there.agent() as agent:
        task = asyncio.create_task(complete(here, **BABBLE))
        await until(lambda: agent.committed and len(agent.committed[1]) > 10)
        valkey.stop()
        assert text_of(await task) == alone
        await until(lambda: not number(here.state.metrics.shared_store))
        waiting = asyncio.create_task(complete(here, **BABBLE | {"max_tokens": 400}))
        await asyncio.sleep(0.3)
        assert len(agent.opened) == 1
        async with there.agent(name="came meanwhile") as second:
            valkey.start()
            await until(lambda: agent.opened[1:] or second.opened)
            assert (await waiting)["edgedraft"]["mode"] == "mixed"


async def test_a_lease_that_lapsed_is_not_looked_at_and_taken_again(
    pair: list[Gateway], verifier: ScriptedVerifier, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    assert there.state.replicas
    async with there.agent() as agent:
        with monkeypatch.context() as frozen:
            frozen.setattr(there.state.replicas._directory, "renew", lambda: asyncio.sleep(0))
            await until(lambda: valkey.client.zcard("edgedraft:replicas") == 1)
            assert (await complete(here, **BABBLE))["edgedraft"]["mode"] == "datacenter"
        await until(lambda: valkey.client.zcard("edgedraft:replicas") == 2)
        assert (await complete(here, **BABBLE))["edgedraft"]["accepted"] > 20
        assert len(agent.opened) == 1
        verifier.step = 0.02
        valkey.client.flushall()  # as a store that was started anew between two beats
        assert (await complete(here, **BABBLE))["edgedraft"]["accepted"] > 20
        assert len(agent.opened) == 2


async def test_a_gateway_starts_without_the_store_and_uses_its_own_agents(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier
) -> None:
    valkey.stop()
    shared = {"redis": valkey.url, "replica_secret": SECRET, "replica_port": 0}
    async with (
        running_gateway(tmp_path, verifier, **shared) as here,
        running_gateway(tmp_path, verifier, **shared) as there,
        here.agent() as own,
    ):
        assert (await complete(here, **BABBLE))["edgedraft"]["mode"] == "edge"
        assert own.opened
        verifier.step = 0.02
        waiting = asyncio.create_task(complete(there, **BABBLE))
        await asyncio.sleep(0.2)
        valkey.start()
        assert (await waiting)["edgedraft"]["accepted"]


async def test_a_session_waits_for_a_free_slot_of_another_replica(
    pair: list[Gateway], verifier: ScriptedVerifier
) -> None:
    here, there = pair
    verifier.step = 0.01
    async with there.agent(max_sessions=1) as agent:
        first = asyncio.create_task(complete(here, **BABBLE))
        await until(lambda: agent.opened)
        second = asyncio.create_task(complete(here, **BABBLE))
        assert (await first)["edgedraft"]["accepted"] > 20
        assert (await second)["edgedraft"]["mode"] == "mixed"
        assert len(agent.opened) == 2
        assert len(agent.opened[1].committed) > 5
        await until(lambda: agent.closed == [1, 2])


async def test_agents_of_one_owner_at_several_replicas_share_the_sessions(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier
) -> None:
    verifier.step = 0.01
    async with replicas(tmp_path, valkey, verifier, 3, max_agents_per_owner=2) as (here, second, third):
        async with second.agent(max_sessions=2) as one, third.agent(max_sessions=2) as other:
            got = await complete(here, **BABBLE, n=4)
            assert got["edgedraft"]["accepted"] > 100
            assert len(one.opened) == len(other.opened) == 2
            refused = await here.agent().__aenter__()
            assert (await refused.closing())[0] == wire.TOO_MANY
        await until(lambda: not valkey.client.keys("edgedraft:agents:*"))
        async with here.agent() as welcome:
            assert welcome.welcome


async def test_replicas_leave_and_join_under_load_and_no_request_fails(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients act as a load balancer: a request that is answered 503 goes to the next replica."""
    verifier.draft_wait = 0.05
    short = BABBLE | {"max_tokens": 40, "model": "toy", "stream": True}
    refused = 0
    texts: list[str] = []
    serving: list[Gateway] = []
    over = False

    async def asked(http: httpx.AsyncClient) -> str | None:
        async with http.stream("POST", "/v1/chat/completions", json=short) as response:
            if response.status_code == 503:
                assert response.headers["connection"] == "close"
                return None
            lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
        assert lines[-1] == "[DONE]"
        chunks = [json.loads(line) for line in lines[:-1]]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length", chunks[-1]
        return joined(chunks)

    async def client(number: int) -> None:
        nonlocal refused
        while not over:
            gateway = serving[number % len(serving)]
            number += 1
            async with gateway.http() as http:
                text = await asked(http)
            refused += text is None
            texts.extend([text] if text is not None else [])

    async with AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(replicas(tmp_path, valkey, verifier, 2))
        serving += [first, second]
        for gateway in serving:
            await stack.enter_async_context(gateway.agent(wrong_every=4))
        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await until(lambda: len(texts) > 15)
        verifier.step = 0.01
        await first.state.drain.run()
        seen = len(texts)
        serving.remove(first)
        (third,) = await stack.enter_async_context(replicas(tmp_path, valkey, verifier, 1, known=2))
        serving.append(third)
        verifier.step = 0.002
        await until(lambda: len(texts) > seen + 20)
        over = True
        await asyncio.gather(*clients)
    assert refused
    assert set(texts) == {texts[0]}
    assert not verifier.violations
