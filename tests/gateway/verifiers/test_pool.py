"""Which verifier a session opens at, over real sockets: by prefix affinity, load, capacity and health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.verifiers.health import BASE_EJECTION_SECONDS, EJECTION_FAILURES
from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.verifiers.test_failover import ALONE, BABBLE, streamed
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until


@asynccontextmanager
async def serving(
    folder: Path, *verifiers: ScriptedVerifier, **options: Any
) -> AsyncIterator[tuple[Gateway, list[ScriptedVerifier]]]:
    async with AsyncExitStack() as stack:
        for verifier in verifiers:
            await stack.enter_async_context(verifier)
        gateway = await stack.enter_async_context(running_gateway(folder, *verifiers, **options))
        yield gateway, list(verifiers)


def opened(verifiers: list[ScriptedVerifier]) -> list[int]:
    return [len(verifier.opened) for verifier in verifiers]


def counted(gateway: Gateway, name: str) -> float:
    return getattr(gateway.state.metrics, name)._value.get()


LONG = "a letter to somebody far away. " * 24


@pytest.mark.parametrize("chat", ["a", "b", "c"])
async def test_a_chat_returns_to_its_verifier_though_more_runs_there(tmp_path: Path, chat: str) -> None:
    async with serving(tmp_path, ScriptedVerifier(), ScriptedVerifier()) as (gateway, verifiers):
        await complete(gateway, messages=user(chat + LONG), max_tokens=3)
        [one] = [verifier for verifier in verifiers if verifier.opened]
        one.step = 0.1
        running = asyncio.create_task(complete(gateway, messages=user(chat + LONG), max_tokens=400))
        await until(lambda: len(one.opened) == 2)
        await complete(gateway, messages=user(chat + 2 * LONG), max_tokens=3)
        assert len(one.opened) == 3
        await complete(gateway, messages=user("new" + 2 * LONG), max_tokens=3)
        assert len(one.opened) == 3, "another chat goes to the less loaded one"
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_no_verifier_is_overloaded_for_a_prefix(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedVerifier(step=0.02), ScriptedVerifier(step=0.02)) as (gateway, verifiers):
        await asyncio.gather(*(complete(gateway, messages=user(LONG), max_tokens=5, seed=i) for i in range(16)))
        assert min(opened(verifiers)) >= 7


async def test_a_larger_verifier_gets_more(tmp_path: Path) -> None:
    async with serving(
        tmp_path, ScriptedVerifier(step=0.02, max_sessions=4), ScriptedVerifier(step=0.02, max_sessions=12)
    ) as (gateway, verifiers):
        await complete(gateway, **BABBLE | {"max_tokens": 3}, n=8)
        assert opened(verifiers) == [2, 6]


async def test_a_verifier_with_a_queue_gets_no_more_sessions(tmp_path: Path) -> None:
    """Sessions of other gateways fill it, which this one sees only by its own sessions being queued."""
    full = ScriptedVerifier(max_sessions=0, max_waiting=64)
    async with serving(tmp_path, full, ScriptedVerifier(step=0.02, max_sessions=8)) as (gateway, verifiers):
        waiting = asyncio.create_task(complete(gateway, **BABBLE))
        await until(lambda: counted(gateway, "queued"))
        await complete(gateway, **BABBLE | {"max_tokens": 5}, n=6)
        assert opened(verifiers) == [1, 6]
        waiting.cancel()


@pytest.mark.parametrize("trouble", ["fail_always", "garble_always"])
async def test_a_verifier_that_fails_session_after_session_is_ejected(tmp_path: Path, trouble: str) -> None:
    bad = ScriptedVerifier()
    setattr(bad, trouble, True)
    few = BABBLE | {"max_tokens": 3}
    now = 0.0
    async with serving(tmp_path, bad, ScriptedVerifier()) as (gateway, verifiers):
        for link in gateway.state.verifiers.links:
            link.health._clock = lambda: now
        for _ in range(6):
            await complete(gateway, **few)
        assert opened(verifiers) == [EJECTION_FAILURES, 6]
        now += BASE_EJECTION_SECONDS
        await complete(gateway, **few, n=6)
        assert len(bad.opened) == EJECTION_FAILURES + 1, "on probation it gets one"
        now += BASE_EJECTION_SECONDS
        await complete(gateway, **few)
        assert len(bad.opened) == EJECTION_FAILURES + 1, "for longer the second time"
        setattr(bad, trouble, False)
        now += BASE_EJECTION_SECONDS
        await complete(gateway, **few)
        await complete(gateway, **few, n=6)
        assert len(bad.opened) == EJECTION_FAILURES + 2 + 3


async def test_a_verifier_that_leaves_gets_no_more_sessions_and_has_not_failed(tmp_path: Path) -> None:
    leaving = ScriptedVerifier(refuse="leaving")
    async with serving(tmp_path, leaving, ScriptedVerifier()) as (gateway, verifiers):
        for _ in range(EJECTION_FAILURES + 1):
            assert streamed(await chunks(gateway, **BABBLE | {"max_tokens": 80})) == ALONE
        assert opened(verifiers) == [1, EJECTION_FAILURES + 1]
        leaving.refuse = ""
        await leaving.stop()
        async with ScriptedVerifier(port=leaving.port) as again:
            await until(lambda: again.connections)
            await complete(gateway, **BABBLE | {"max_tokens": 3}, n=4)
            assert len(again.opened) == 2


async def test_an_ejected_verifier_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    flaky = ScriptedVerifier()
    async with serving(tmp_path, flaky) as (gateway, _):
        for _ in range(EJECTION_FAILURES + 2):
            flaky.fail_at = 30
            assert streamed(await chunks(gateway, **BABBLE)) == ALONE
