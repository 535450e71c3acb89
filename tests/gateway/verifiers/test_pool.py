"""Which verifier a session opens at, over real sockets: where its beginning is, where there is room, where it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.verifiers.affinity import BLOCK_SIZE, PrefixAffinity
from gateway.verifiers.health import BASE_EJECTION_SECONDS, EJECTION_FAILURES, VerifierHealth
from gateway.verifiers.hedging import MAX_BURST, HedgePolicy
from tests.gateway.api.test_chat import chunks, user, whole
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
    return getattr(gateway.services.metrics, name)._value.get()


LONG = "a letter to somebody far away. " * 24


@pytest.mark.parametrize("chat", ["a", "b", "c"])
async def test_a_chat_goes_on_where_it_began_though_more_runs_there(tmp_path: Path, chat: str) -> None:
    async with serving(tmp_path, ScriptedVerifier(), ScriptedVerifier()) as (gateway, verifiers):
        await whole(gateway, messages=user(chat + LONG), max_tokens=3)
        [one] = [verifier for verifier in verifiers if verifier.opened]
        one.step = 0.1
        running = asyncio.create_task(whole(gateway, messages=user(chat + LONG), max_tokens=400))
        await until(lambda: len(one.opened) == 2)
        await whole(gateway, messages=user(chat + 2 * LONG), max_tokens=3)
        assert len(one.opened) == 3
        await whole(gateway, messages=user("new" + 2 * LONG), max_tokens=3)
        assert len(one.opened) == 3, "another chat goes where less runs"
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_no_verifier_is_crowded_for_a_beginning(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedVerifier(step=0.02), ScriptedVerifier(step=0.02)) as (gateway, verifiers):
        await asyncio.gather(*(whole(gateway, messages=user(LONG), max_tokens=5, seed=i) for i in range(16)))
        assert min(opened(verifiers)) >= 7


async def test_another_tenants_beginning_is_not_followed(tmp_path: Path) -> None:
    affinity = PrefixAffinity()
    prompt = list(range(5 * BLOCK_SIZE + 1))
    affinity.record(affinity.hash_blocks("acme", prompt), "one")
    assert affinity.longest_match(affinity.hash_blocks("acme", prompt[: 3 * BLOCK_SIZE + 9])) == ("one", 3)
    assert affinity.longest_match(affinity.hash_blocks("acme", [*prompt[: 2 * BLOCK_SIZE], *prompt])) == ("one", 2)
    assert affinity.longest_match(affinity.hash_blocks("other", prompt)) == ("", 0)
    assert affinity.longest_match(affinity.hash_blocks("acme", prompt[1:])) == ("", 0)
    small = PrefixAffinity(capacity=3)
    small.record(small.hash_blocks("", prompt), "one")
    assert small.longest_match(small.hash_blocks("", prompt)) == ("one", 3), "the start is what others may share"


async def test_a_larger_verifier_gets_more(tmp_path: Path) -> None:
    async with serving(
        tmp_path, ScriptedVerifier(step=0.02, max_sessions=4), ScriptedVerifier(step=0.02, max_sessions=12)
    ) as (gateway, verifiers):
        await whole(gateway, **BABBLE | {"max_tokens": 3}, n=8)
        assert opened(verifiers) == [2, 6]


async def test_one_with_a_queue_gets_no_more(tmp_path: Path) -> None:
    """Other gateways fill it, which this one cannot count: that its sessions wait there says so."""
    full = ScriptedVerifier(max_sessions=0, max_waiting=64)
    async with serving(tmp_path, full, ScriptedVerifier(step=0.02, max_sessions=8)) as (gateway, verifiers):
        waiting = asyncio.create_task(whole(gateway, **BABBLE))
        await until(lambda: counted(gateway, "queued"))
        await whole(gateway, **BABBLE | {"max_tokens": 5}, n=6)
        assert opened(verifiers) == [1, 6]
        waiting.cancel()


@pytest.mark.parametrize("trouble", ["fail_always", "garble_always"])
async def test_one_that_fails_session_after_session_is_left_alone(
    tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.verifiers.health.BASE_EJECTION_SECONDS", 0.6)
    bad = ScriptedVerifier()
    setattr(bad, trouble, True)
    few = BABBLE | {"max_tokens": 3}
    async with serving(tmp_path, bad, ScriptedVerifier()) as (gateway, verifiers):
        for _ in range(6):
            await whole(gateway, **few)
        assert opened(verifiers) == [EJECTION_FAILURES, 6]
        await asyncio.sleep(0.6)
        await whole(gateway, **few, n=6)
        assert len(bad.opened) == EJECTION_FAILURES + 1, "one tries it again"
        await asyncio.sleep(0.6)
        await whole(gateway, **few)
        assert len(bad.opened) == EJECTION_FAILURES + 1, "for longer the second time"
        setattr(bad, trouble, False)
        await asyncio.sleep(0.6)
        await whole(gateway, **few)
        await whole(gateway, **few, n=6)
        assert len(bad.opened) == EJECTION_FAILURES + 2 + 3


async def test_one_that_leaves_is_given_nothing_more_and_is_no_failure(tmp_path: Path) -> None:
    leaving = ScriptedVerifier(refuse="leaving")
    async with serving(tmp_path, leaving, ScriptedVerifier()) as (gateway, verifiers):
        for _ in range(EJECTION_FAILURES + 1):
            assert streamed(await chunks(gateway, **BABBLE | {"max_tokens": 80})) == ALONE
        assert opened(verifiers) == [1, EJECTION_FAILURES + 1]
        leaving.refuse = ""
        await leaving.stop()
        async with ScriptedVerifier(port=leaving.port) as again:
            await until(lambda: again.connections)
            await whole(gateway, **BABBLE | {"max_tokens": 3}, n=4)
            assert len(again.opened) == 2


async def test_a_bad_one_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    flaky = ScriptedVerifier()
    async with serving(tmp_path, flaky) as (gateway, _):
        for _ in range(EJECTION_FAILURES + 2):
            flaky.fail_at = 30
            assert streamed(await chunks(gateway, **BABBLE)) == ALONE


def test_health_is_told_by_work() -> None:
    now = 0.0
    health = VerifierHealth(lambda: now)
    for _ in range(EJECTION_FAILURES - 1):
        health.record_failure()
    health.record_success()
    for _ in range(EJECTION_FAILURES - 1):
        health.record_failure()
    assert not health.ejected
    health.record_failure()
    assert health.ejected
    health.record_failure()
    health.record_success()
    now = BASE_EJECTION_SECONDS + 0.1
    assert not health.ejected
    assert health.on_probation
    health.record_failure()
    now += BASE_EJECTION_SECONDS + 0.1
    assert health.ejected, "for twice as long"
    now += BASE_EJECTION_SECONDS
    health.record_success()
    assert not health.on_probation


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("at", [0, 30])
async def test_when_a_verifier_is_silent_another_is_asked_too(tmp_path: Path, edge: bool, at: int) -> None:
    """At 0 it never begins; at 30 the first is lost by then, and it is the second one that is silent."""
    silent = ScriptedVerifier(silent_at=0, patience=0.1)
    verifiers = [silent, ScriptedVerifier(patience=0.1)]
    if at:
        verifiers.insert(0, ScriptedVerifier(die_at=at, patience=0.1))
    async with (
        serving(tmp_path, *verifiers, hedge_after=0.2, silence_timeout=20) as (gateway, _),
        AsyncExitStack() as s,
    ):
        agent = await s.enter_async_context(gateway.agent()) if edge else None
        async with asyncio.timeout(5):
            got = await chunks(gateway, **BABBLE)
        assert streamed(got) == ALONE
        assert counted(gateway, "hedged") == 1
        await until(lambda: silent.cancelled == [1])
        assert len(verifiers[-1].opened) == 1
        assert len(verifiers[-1].opened[0].committed) >= at
        if agent:
            assert got[-1]["edgedraft"]["accepted"] > 20
            assert sum(commit.accepted for commit in verifiers[-1].commits) > 20
            assert len(agent.committed[1]) == 80
        assert not any(verifier.violations for verifier in verifiers)


async def test_when_the_first_commits_after_all_the_second_is_given_up(tmp_path: Path) -> None:
    slow, spare = ScriptedVerifier(step=0.4), ScriptedVerifier(step=5)
    async with serving(tmp_path, slow, spare, hedge_after=0.1) as (gateway, verifiers):
        task = asyncio.create_task(whole(gateway, **BABBLE))
        await until(lambda: spare.opened)
        await until(lambda: spare.cancelled == [1])
        slow.step = 0
        assert (await task)["choices"][0]["message"]["content"] == ALONE
        assert opened(verifiers) == [1, 1]
        assert not slow.cancelled


async def test_a_hedge_that_is_refused_or_lost_changes_nothing(tmp_path: Path) -> None:
    slow = ScriptedVerifier(step=0.3)
    async with serving(tmp_path, slow, ScriptedVerifier(refuse="overloaded"), hedge_after=0.05) as (gateway, verifiers):
        task = asyncio.create_task(whole(gateway, **BABBLE))
        await until(lambda: verifiers[1].opened)
        await asyncio.sleep(0.05)
        slow.step = 0
        assert (await task)["choices"][0]["message"]["content"] == ALONE
        assert opened(verifiers) == [1, 1]


def test_hedges_are_few_and_wait_longer_where_all_are_slow() -> None:
    hedges = HedgePolicy(2.0)
    assert hedges.on_open(100) == 2.0
    assert [hedges.try_acquire() for _ in range(int(MAX_BURST) + 1)] == [True] * int(MAX_BURST) + [False]
    for _ in range(11):
        hedges.on_open(100)
    assert [hedges.try_acquire(), hedges.try_acquire()] == [True, False]
    for _ in range(100):
        hedges.on_first_commit(4.0, 1000)
    assert hedges.on_open(1000) == pytest.approx(12, rel=0.01)
    assert hedges.on_open(4000) == pytest.approx(48, rel=0.01)
    assert HedgePolicy(0.0).on_open(100) == 0
