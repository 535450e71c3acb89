"""When the scheduler waits for drafts, and for how long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedraft.wire import Draft
from tests.verifier.counting_engine import STEP, SchedulerSim


def test_a_session_waits_for_its_draft_for_a_bounded_time() -> None:
    sim = SchedulerSim()
    sim.open(1)
    sim.decode_three(1)
    sim.scheduler.set_agent(1, "agent")
    output = sim.scheduler.schedule(sim.now)
    assert not output.scheduled
    assert output.wake_at == pytest.approx(sim.now + STEP / 2)
    sim.now += STEP / 2
    assert sim.step()[1].tokens == [4]
    assert sim.scheduler.schedule(sim.now).scheduled, "the wait has expired: no other one until a draft arrives"


def test_a_draft_that_arrives_after_the_wait_is_verified() -> None:
    sim = SchedulerSim()
    sim.open(1)
    sim.decode_three(1)
    sim.scheduler.set_agent(1, "agent")
    sim.now = sim.scheduler.schedule(sim.now).wake_at or 0.0
    assert sim.step()[1].tokens == [4]
    sim.draft(1, 4, 1, [5, 6])
    assert sim.step()[1].tokens == [5, 6, 7]


def test_a_draft_ends_the_wait() -> None:
    sim = SchedulerSim()
    sim.open(1)
    at = sim.decode_three(1)
    sim.scheduler.set_agent(1, "agent")
    assert not sim.scheduler.schedule(sim.now).scheduled
    sim.now += STEP / 4
    sim.draft(1, at, 1, [4])
    assert sim.step()[1].tokens == [4, 5]


def send_nodes(sim: SchedulerSim, at: int, gap: float, confidence: int = 0) -> None:
    """An agent is attached to session 1 and sends three nodes, `gap` seconds apart; the last has just arrived."""
    sim.scheduler.set_agent(1, "agent")
    for node in range(1, 4):
        sim.now += gap
        chain = Draft(1, 1, at, node, [at + node], [node - 1], bytes([confidence]))
        sim.scheduler.add_draft(1, chain, sim.now)


def test_it_waits_for_deeper_nodes_while_they_are_expected_soon() -> None:
    sim = SchedulerSim()
    sim.open(1)
    at = sim.decode_three(1)
    send_nodes(sim, at, STEP / 20)
    output = sim.scheduler.schedule(sim.now)
    assert not output.scheduled
    assert output.wake_at == pytest.approx(sim.now + 1.5 * STEP / 20)
    sim.now = output.wake_at or 0.0
    assert sim.step()[1].tokens == [4, 5, 6, 7], "no more nodes arrived"


@pytest.mark.parametrize(("gap", "confidence"), [(STEP / 3, 0), (STEP / 20, 50)])
def test_it_does_not_wait_for_deeper_nodes_that_are_late_or_improbable(gap: float, confidence: int) -> None:
    sim = SchedulerSim()
    sim.open(1)
    send_nodes(sim, sim.decode_three(1), gap, confidence)
    assert sim.scheduler.schedule(sim.now).scheduled


def test_it_does_not_wait_for_deeper_nodes_without_latency_budget() -> None:
    sim = SchedulerSim()
    sim.open(1)
    at = sim.decode_three(1)
    session = sim.scheduler._sessions[1]
    session.latency_budget = replace(session.latency_budget, saved_seconds=-STEP)
    send_nodes(sim, at, STEP / 20)
    assert sim.scheduler.schedule(sim.now).scheduled


def test_a_step_that_runs_anyway_includes_sessions_that_would_wait() -> None:
    sim = SchedulerSim()
    sim.open(1)
    sim.open(2)
    sim.decode_three(1)
    sim.scheduler.set_agent(1, "agent")
    assert [item.session for item in sim.scheduler.schedule(sim.now).scheduled] == [1, 2]
    sim.scheduler.close(2)
    assert not sim.scheduler.schedule(sim.now).scheduled, "on its own it waits"
    sim.open(3, prompt=30)
    assert [item.session for item in sim.scheduler.schedule(sim.now).scheduled] == [1, 3], "the step computes a prompt"
