"""The engine loop in its thread: addressing of replies, admission, failed steps, closed links and a lost engine."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_OVERLOADED,
    CLOSE_REFUSED,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Open,
    Queued,
    Sampling,
)
from tests.verifier.counting_engine import LIMITS, CountingEngine, LoopRunner
from verifier.engine.interface import EngineLost, ScheduledSession, StepResult
from verifier.engine_loop import WARM_UP_KEY, LinkClosed, warm_up
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

GREEDY = Sampling(temperature=0)
LONG = 10**9  # tokens: such a session never finishes by itself

Run = Callable[..., LoopRunner]


class GatedEngine(CountingEngine):
    """Runs no step while its gate is closed."""

    def __init__(self, max_sessions: int) -> None:
        super().__init__(max_sessions)
        self.gate = threading.Event()
        self.gate.set()

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        assert self.gate.wait(60)
        return super().step(scheduled)


class FailingEngine(CountingEngine):
    """Fails in steps that compute a prompt of one token."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        if any(self.num_uncomputed[item.session] == 1 and not self.last_token[item.session] for item in scheduled):
            raise RuntimeError("broken")
        return super().step(scheduled)


class EvictingEngine(CountingEngine):
    """Each step evicts the sessions that it does not run, as for their KV blocks."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        left_out = self.num_uncomputed.keys() - {item.session for item in scheduled}
        return [StepResult(key, (), self.num_uncomputed[key]) for key in left_out] + super().step(scheduled)


class LostEngine(CountingEngine):
    """Is lost in the first step after the warm-up."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        if any(item.session != WARM_UP_KEY for item in scheduled):
            raise EngineLost("a worker is gone")
        return super().step(scheduled)


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts loops, which end with the test."""
    started: list[LoopRunner] = []

    def start(engine: CountingEngine, limits: SchedulerLimits = LIMITS) -> LoopRunner:
        runner = LoopRunner(engine, limits)
        runner.loop.start()
        started.append(runner)
        return runner

    yield start
    for runner in started:
        runner.loop.stop()


def test_replies_carry_the_link_and_the_session_number_of_the_gateway(run: Run) -> None:
    runner = run(CountingEngine(4))
    for link, session, tokens in ((1, 7, 3), (2, 7, 5), (2, 900, 2)):
        runner.loop.post(link, Open(session, [0, 0], GREEDY, tokens))
    lengths = {(1, 7): 0, (2, 7): 0, (2, 900): 0}
    finished = 0
    while finished < 3:
        link, reply = runner.next()
        assert isinstance(reply, Commit)
        assert reply.at == lengths[link, reply.session]
        lengths[link, reply.session] += len(reply.tokens)
        finished += reply.finish is not None
    assert lengths == {(1, 7): 3, (2, 7): 5, (2, 900): 2}


def test_a_session_number_that_is_open_already_is_rejected(run: Run) -> None:
    runner = run(CountingEngine(4))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, LONG))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, 2))
    (*_, last) = runner.until_end(1)
    assert isinstance(last, Close)
    assert (last.code, "open already" in last.reason) == (CLOSE_REFUSED, True)


def test_invalid_requests_are_rejected(run: Run) -> None:
    runner = run(CountingEngine(4))
    runner.loop.post(1, Open(1, [0] * 2000, GREEDY, 2))
    (reply,) = runner.until_end(1)
    assert isinstance(reply, Close)
    assert (reply.code, reply.reason) == (CLOSE_REFUSED, "too long")


def test_closing_a_session_admits_the_one_that_waits(run: Run) -> None:
    runner = run(CountingEngine(1))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, LONG))
    runner.loop.post(1, Open(2, [0, 0], GREEDY, 2))
    while (reply := runner.next()[1]).session == 1:
        pass
    assert reply == Queued(2, 0)
    runner.loop.post(1, Close(1))
    assert sum(len(reply.tokens) for reply in runner.until_end(2) if isinstance(reply, Commit)) == 2


def test_a_session_that_has_waited_too_long_is_closed_as_overloaded(run: Run) -> None:
    runner = run(CountingEngine(1), replace(LIMITS, max_wait=0.01))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, LONG))
    runner.loop.post(1, Open(2, [0, 0], GREEDY, 2))
    (*_, last) = runner.until_end(2)
    assert isinstance(last, Close)
    assert last.code == CLOSE_OVERLOADED
    assert last.retry_after >= 1


def test_a_session_may_be_cancelled_right_after_the_queue_has_rejected_it(run: Run) -> None:
    """All of it arrives during one step."""
    engine = GatedEngine(1)
    runner = run(engine, replace(LIMITS, max_waiting=1))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, LONG))
    runner.next()
    engine.gate.clear()
    runner.loop.post(1, Open(2, [0, 0], GREEDY, 2))
    runner.loop.post(1, Open(3, [0, 0], GREEDY, 2, priority=5))
    runner.loop.post(1, Close(2))
    runner.loop.post(1, Close(1))
    engine.gate.set()
    assert sum(len(reply.tokens) for reply in runner.until_end(3) if isinstance(reply, Commit)) == 2
    assert not runner.loop.broken


def test_a_closed_link_ends_its_own_sessions_only(run: Run) -> None:
    engine = GatedEngine(4)
    runner = run(engine)
    for link in (1, 2):
        runner.loop.post(link, Open(1, [0, 0], GREEDY, LONG))
    seen: set[int] = set()
    while seen < {1, 2}:
        seen.add(runner.next()[0])
    engine.gate.clear()
    runner.loop.post(1, LinkClosed())
    runner.loop.post(2, AgentChanged(1, ""))
    runner.loop.post(2, Open(2, [0, 0], GREEDY, 2))
    engine.gate.set()
    replies = [runner.next()]
    while replies[-1][1].session != 2:
        replies.append(runner.next())
    after = [runner.next()[0] for _ in range(5)]
    assert set(after) == {2}
    assert runner.loop.busy
    runner.loop.post(2, LinkClosed())
    runner.loop.post(3, Open(1, [0, 0], GREEDY, 1))
    runner.until_end(1, link=3)
    assert len(engine.num_uncomputed) == 0


def test_a_failed_step_closes_its_sessions_and_the_loop_continues(run: Run) -> None:
    runner = run(FailingEngine(4))
    runner.loop.post(1, Open(1, [0], GREEDY, 5))
    (reply,) = runner.until_end(1)
    assert isinstance(reply, Close)
    assert reply.code == CLOSE_FAILED
    runner.loop.post(1, Open(2, [0, 0], GREEDY, 3))
    assert all(isinstance(reply, Commit) for reply in runner.until_end(2))


def test_a_session_that_is_evicted_outside_of_its_own_steps_goes_on(run: Run) -> None:
    """Prompts take turns: while one is computed, its blocks may be those of another."""
    runner = run(EvictingEngine(4))
    for session in (1, 2, 3):
        runner.loop.post(1, Open(session, [0] * 200, GREEDY, 20))
    finished = 0
    while finished < 3:
        _, reply = runner.next()
        assert isinstance(reply, Commit)
        finished += reply.finish is not None


def test_an_invalid_draft_does_not_end_its_session(run: Run) -> None:
    runner = run(CountingEngine(4))
    runner.loop.post(1, Open(1, [0, 0], GREEDY, 4, agent="agent"))
    runner.loop.post(1, Draft(1, 1, 0, 1, [5000], [0], bytes(1)))
    runner.loop.post(1, Draft(77, 1, 0, 1, [1], [0], bytes(1)))
    replies = runner.until_end(1)
    assert [token for reply in replies if isinstance(reply, Commit) for token in reply.tokens] == [1, 2, 3, 4]


def test_the_warm_up_records_costs_and_leaves_no_session() -> None:
    engine, costs = CountingEngine(1), StepCosts()
    warm_up(engine, costs)
    assert costs.has_measurements
    assert not engine.num_uncomputed


def test_a_lost_engine_ends_its_process() -> None:
    terminated = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: terminated.set())
    try:
        runner = LoopRunner(LostEngine(2))
        runner.loop.start()
        runner.loop.post(1, Open(1, [0, 0], GREEDY, 5))
        deadline = time.monotonic() + 60
        while not terminated.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)  # Event.wait would not let the handler run: another thread raises the signal
        assert terminated.is_set()
        runner.loop.stop()
        assert runner.loop.broken
        assert not runner.loop.busy
    finally:
        signal.signal(signal.SIGTERM, before)
