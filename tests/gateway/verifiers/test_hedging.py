"""Hedged sessions: a second verifier where the first is late, over real sockets and by the policy alone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from edgedraft.wire import Commit, Draft, Open, Queued, Sampling
from gateway.verifiers.health import VerifierHealth
from gateway.verifiers.hedging import MAX_BURST, HedgedSession, HedgePolicy
from gateway.verifiers.link import VerifierLink, VerifierListener, VerifierSession
from tests.gateway.api.test_chat import chunks, complete
from tests.gateway.verifiers.test_failover import ALONE, BABBLE, streamed
from tests.gateway.verifiers.test_pool import counted, opened, serving
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("at", [0, 30])
async def test_when_a_verifier_is_silent_another_is_asked_too(tmp_path: Path, edge: bool, at: int) -> None:
    """At 0 it never begins; at 30 the first is lost by then, and it is the second one that is silent."""
    silent = ScriptedVerifier(silent_at=0, draft_wait=0.1)
    verifiers = [silent, ScriptedVerifier(draft_wait=0.1)]
    if at:
        verifiers.insert(0, ScriptedVerifier(die_at=at, draft_wait=0.1))
    async with (
        serving(tmp_path, *verifiers, hedge_after=0.2, silence_timeout=120) as (gateway, _),
        AsyncExitStack() as s,
    ):
        agent = await s.enter_async_context(gateway.agent()) if edge else None
        async with asyncio.timeout(60):
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
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await until(lambda: spare.opened)
        await until(lambda: spare.cancelled == [1])
        slow.step = 0
        assert (await task)["choices"][0]["message"]["content"] == ALONE
        assert opened(verifiers) == [1, 1]
        assert not slow.cancelled


async def test_a_hedge_that_is_refused_or_lost_changes_nothing(tmp_path: Path) -> None:
    slow = ScriptedVerifier(step=0.3)
    async with serving(tmp_path, slow, ScriptedVerifier(refuse="overloaded"), hedge_after=0.05) as (gateway, verifiers):
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await until(lambda: verifiers[1].opened)
        await until(lambda: sum(link.running for link in gateway.state.verifiers.links) == 1)
        slow.step = 0
        assert (await task)["choices"][0]["message"]["content"] == ALONE
        assert opened(verifiers) == [1, 1]


def test_hedges_are_few_and_wait_longer_where_all_are_slow() -> None:
    hedges = HedgePolicy(2.0)
    assert hedges.record_open(100) == 2.0
    assert [hedges.try_acquire() for _ in range(int(MAX_BURST) + 1)] == [True] * int(MAX_BURST) + [False]
    for _ in range(11):
        hedges.record_open(100)
    assert [hedges.try_acquire(), hedges.try_acquire()] == [True, False]
    for _ in range(100):
        hedges.record_first_commit(4.0, 1000)
    assert hedges.record_open(1000) == pytest.approx(12, rel=0.01)
    assert hedges.record_open(4000) == pytest.approx(48, rel=0.01)
    assert HedgePolicy(0.0).record_open(100) == 0


class FakeLink:
    """A verifier's link without a socket: sessions, and what was done to them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.health = VerifierHealth()
        self.listeners: list[VerifierListener] = []
        self.messages: list[Open] = []
        self.done: list[object] = []

    def open(self, listener: VerifierListener, message: Open) -> VerifierSession:
        self.listeners.append(listener)
        self.messages.append(message)
        session = VerifierSession(cast(VerifierLink, self), listener)
        session.number = len(self.listeners)
        return session

    def send_draft(self, draft: Draft) -> bool:
        self.done.append(draft)
        return True

    def set_agent(self, number: int, agent: str) -> None:
        self.done.append(agent)

    def end(self, number: int) -> None:
        self.done.append("closed")


class Events:
    """A HedgedListener that records what it is called with."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_commit(self, commit: Commit) -> None:
        self.events.append(commit)

    def on_progress(self, computed: int) -> None:
        self.events.append(("progress", computed))

    def on_queued(self, ahead: int) -> None:
        self.events.append(Queued(1, ahead))

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        self.events.append(code)

    def on_verifier_changed(self) -> None:
        self.events.append("changed")


class Around:
    """A session that is open at `first` and, from `hedge` on, at `second` too."""

    def __init__(self, policy: HedgePolicy) -> None:
        self.events = Events()
        self.first, self.second = FakeLink("first"), FakeLink("second")
        self.hedges = 0

        def count() -> None:
            self.hedges += 1

        self.session = HedgedSession(
            self.events,
            cast(Any, self.first),
            Open(1, [1, 2], Sampling(), 9, agent="laptop"),
            policy,
            lambda first: cast(Any, self.second if first is cast(Any, self.first) else None),
            count,
        )

    async def hedge(self) -> None:
        await until(lambda: self.hedges)


async def test_the_first_commit_wins_and_the_other_is_closed() -> None:
    around = Around(HedgePolicy(0.001))
    await around.hedge()
    around.session.set_agent("laptop")
    assert around.first.done == around.second.done == ["laptop"]
    around.second.listeners[0].on_commit(Commit(1, 0, [5]))
    assert around.events.events == ["changed", Commit(1, 0, [5])]
    assert around.first.done[-1] == "closed"
    assert around.session.link is cast(Any, around.second)
    around.first.listeners[0].on_commit(Commit(1, 0, [5]))
    around.first.listeners[0].on_verifier_closed("failed", "late")
    assert len(around.events.events) == 2, "the closed one is not listened to"
    draft = Draft(1, 1, 0, 1, [5], [0], b"\0")
    assert around.session.draft(draft)
    assert draft in around.second.done


async def test_a_loss_is_reported_only_when_both_are_lost() -> None:
    around = Around(HedgePolicy(0.001))
    await around.hedge()
    around.first.listeners[0].on_verifier_closed("failed", "broken")
    assert around.events.events == ["changed"]
    around.second.listeners[0].on_verifier_closed("overloaded", "full", 2.0)
    assert around.events.events == ["changed", "overloaded"]


async def test_being_queued_at_both_is_reported_once() -> None:
    around = Around(HedgePolicy(0.001))
    around.first.listeners[0].on_queued(3)
    await around.hedge()
    around.second.listeners[0].on_queued(1)
    assert around.events.events == [Queued(1, 3)]


async def test_a_hedge_names_the_agent_of_now_and_failures_count_for_both() -> None:
    around = Around(HedgePolicy(0.001))
    around.session.set_agent("")
    await around.hedge()
    assert around.second.messages[0].agent == ""
    around.session.report_failure()
    assert around.first.health._failures == around.second.health._failures == 1
    around.session.close()
    assert "closed" in around.first.done
    assert "closed" in around.second.done


async def test_a_session_that_was_closed_is_not_hedged() -> None:
    around = Around(HedgePolicy(0.001))
    around.session.close()
    await asyncio.sleep(0.02)
    assert not around.hedges


async def test_without_hedging_a_session_is_the_verifiers_own(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedVerifier(), hedge_after=0) as (gateway, _):
        pool = gateway.state.verifiers
        await pool.wait_for_model(5)
        model = next(iter(pool.catalog))
        message = Open(1, [1, 2], Sampling(), 9)
        session = pool.open(cast(Any, Events()), model, message, None)
        assert isinstance(session, VerifierSession)
        session.close()
