"""How long the scheduler waits for agents that are near, far, silent, lying or bursty; invariant 3 for all of them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

import pytest

from edgedraft.wire import Draft
from tests.verifier.counting_engine import STEP, SchedulerSim


@dataclass
class Agent:
    """Sends a chain after each commit that its last one did not foresee: a frame of one token each `interval` seconds.

    The first frame takes `delay()` seconds. `right()` is how many of the tokens are right, the rest is wrong; all are
    sent with the confidence byte `confidence`. `frames` are sent unless a commit makes them obsolete.
    """

    delay: Callable[[], float]
    right: Callable[[], int]
    interval: float = 0.002
    frames: int = 6
    confidence: int = 4
    epoch: int = 0
    expected: list[int] = field(default_factory=list)  # tokens that its chain foresees

    def plan(self, at: int, now: float) -> list[tuple[float, Draft]]:
        """The frames of a new chain behind `at` tokens."""
        self.epoch += 1
        right = self.right()
        tokens = [at + 1 + i if i < right else 999 for i in range(self.frames)]
        self.expected = tokens[:right]
        first = now + self.delay()
        confidence = bytes([self.confidence])
        return [
            (first + i * self.interval, Draft(1, self.epoch, at, i + 1, [token], [i], confidence))
            for i, token in enumerate(tokens)
        ]

    def foresaw(self, tokens: list[int]) -> bool:
        seen, self.expected = self.expected[: len(tokens)], self.expected[len(tokens) :]
        return seen == tokens


def run(agent: Agent, tokens: int, sim: SchedulerSim) -> tuple[float, list[float]]:
    """One session of `tokens` tokens: the seconds it took, and how long each step was put off."""
    order, due = count(), list[tuple[float, int, Draft]]()

    def send(at: int) -> None:
        due.clear()  # an obsolete chain is not sent on
        for when, draft in agent.plan(at, sim.now):
            heapq.heappush(due, (when, next(order), draft))

    def deliver() -> None:
        while due and due[0][0] <= sim.now:
            when, _, draft = heapq.heappop(due)
            if sim.scheduler._find_session(1):
                sim.scheduler.add_draft(1, draft, when)

    sim.open(1, tokens=tokens, agent="agent")
    began, ended_at, waits, done = sim.now, sim.now, list[float](), 0
    send(0)
    while done < tokens:
        deliver()
        output = sim.scheduler.schedule(sim.now)
        if not output.scheduled:
            assert output.wake_at is not None
            sim.now = max(sim.now, min([output.wake_at, *(when for when, _, _ in due[:1])]))
            continue
        waits.append(sim.now - ended_at)
        rows = sum(item.num_tokens + len(item.draft) for item in output.scheduled)
        started, sim.now = sim.now, sim.now + sim.costs(rows)
        deliver()
        [commit] = sim.scheduler.update(
            output.scheduled, sim.scheduler._engine.step(output.scheduled), started, sim.now
        ).values()
        ended_at, done = sim.now, commit.at + len(commit.tokens)
        if not agent.foresaw(commit.tokens) and done < tokens:
            send(done)
    return sim.now - began, waits


def near_agent(delay: float) -> Agent:
    """One that is right three times and then wrong, so that each verify ends in a miss."""
    return Agent(delay=lambda: delay, right=lambda: 3)


def test_a_near_agent_is_waited_for_once_its_drafts_are_known() -> None:
    seconds, waits = run(near_agent(0.003), 400, SchedulerSim())
    # The fourth frame comes 9 ms after the miss: four tokens per 49 ms, as against 2 + 2.7 per 80 ms without a wait.
    assert sum(waits[-50:]) / 50 == pytest.approx(0.009, abs=0.004)
    assert 400 / seconds > 70
    assert waits[:3] == [0.0] * 3, "nothing was known yet"


def test_a_far_agent_is_not_waited_for() -> None:
    _, waits = run(near_agent(0.035), 400, SchedulerSim())
    assert max(waits) < 0.012, "for further frames of a draft that is there, and never for the first"


def test_an_agent_that_falls_silent_is_not_waited_for_again() -> None:
    sim = SchedulerSim()
    agent = near_agent(0.003)
    calls = count()
    agent.delay = lambda: 0.003 if next(calls) < 60 else 1e6
    _, waits = run(agent, 500, sim)
    assert any(waits[20:60]), "it was waited for while it sent"
    assert max(waits[-40:]) == 0.0


def test_a_step_with_a_session_that_has_no_agent_is_not_put_off() -> None:
    sim = SchedulerSim()
    run(near_agent(0.003), 300, sim)
    sim.open(2, agent="agent")
    sim.open(3)
    assert {item.session for item in sim.scheduler.schedule(sim.now).scheduled} == {2, 3}


@pytest.mark.parametrize("seed", range(40))
def test_no_agent_makes_a_session_slower_than_decoding_by_more_than_a_step(seed: int) -> None:
    """Invariant 3, for random agents: slow, bursty, overconfident, right for a while and then not, or silent."""
    dice = random.Random(seed)
    kind = {"honest": dice.random() < 0.4, "bursty": dice.random() < 0.5, "turns": dice.random() < 0.5}
    turned = count()

    def right() -> int:
        lying = not kind["honest"] or (kind["turns"] and next(turned) > 20)
        return dice.randrange(2) if lying and dice.random() < 0.9 else dice.randrange(7)

    def delay() -> float:
        late = kind["bursty"] and dice.random() < 0.3
        return dice.uniform(0.05, 2.0) if late else dice.uniform(0.0, 0.05)

    agent = Agent(delay, right, dice.uniform(0.0, 0.02), dice.randrange(1, 9), dice.choice([0, 1, 8, 40]))
    slope = dice.choice([0.0, 0.002, 0.01])
    tokens = 150
    seconds, _ = run(agent, tokens, SchedulerSim(costs=lambda rows: STEP + slope * (rows - 1)))
    assert seconds <= (tokens + 1) * STEP + 1e-6
