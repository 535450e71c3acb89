"""What the scheduler puts into a step, commits and admits, over an engine whose output counts up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedraft.tree import DraftViolation
from tests.verifier.counting_engine import LIMITS, STEP, SchedulerSim
from verifier.engine.interface import Overloaded, RequestRejected


def test_a_session_without_an_agent_decodes_at_once() -> None:
    sim = SchedulerSim()
    sim.open(1)
    assert [sim.step()[1].tokens for _ in range(3)] == [[1], [2], [3]]


def test_a_draft_is_verified_and_the_next_token_committed() -> None:
    sim = SchedulerSim()
    sim.open(1)
    at = sim.decode_three(1)
    sim.draft(1, at, 1, [4, 5, 6, 99])
    commit = sim.step()[1]
    assert (commit.at, commit.tokens) == (3, [4, 5, 6, 7])
    assert (commit.nodes, commit.depth, commit.accepted) == (4, 4, 3)


def test_the_first_commit_reports_the_seconds_of_the_complete_prompt() -> None:
    sim = SchedulerSim(replace(LIMITS, step_tokens=60))
    sim.open(1, prompt=150)
    assert not sim.step()
    assert not sim.step()
    assert sim.step()[1].seconds == pytest.approx(2 * 0.02 + 0.01)
    assert sim.step()[1].seconds == pytest.approx(0.01)


def test_long_prompts_are_computed_in_chunks_beside_running_sessions() -> None:
    sim = SchedulerSim(replace(LIMITS, prompt_delay=99.0))
    sim.open(1)
    sim.decode_three(1)
    sim.open(2, prompt=150)
    works = []
    while True:
        output = sim.scheduler.schedule(sim.now)
        works.append({item.session: item.num_tokens for item in output.scheduled})
        if 2 in sim.step():
            break
    assert all(work[1] == 1 for work in works), "the running session is in every step"
    assert [work[2] for work in works] == [63, 63, 24]


def test_a_draft_that_arrives_during_prefill_is_verified_with_its_last_chunk() -> None:
    sim = SchedulerSim()
    sim.open(1, prompt=20, agent="agent")
    sim.draft(1, 0, 1, [1, 2])
    assert sim.step()[1].tokens == [1, 2, 3]


def test_prompt_chunks_delay_running_sessions_by_a_bounded_time() -> None:
    sim = SchedulerSim(costs=lambda rows: STEP + 0.01 * rows)
    sim.open(1)
    sim.decode_three(1)
    sim.open(2, prompt=150)
    (chunk,) = [item.num_tokens for item in sim.scheduler.schedule(sim.now).scheduled if item.session == 2]
    assert sim.scheduler.step_costs.seconds(1 + chunk) - sim.scheduler.step_costs.seconds(1) <= LIMITS.prompt_delay
    assert chunk >= 16


def test_nodes_that_cost_more_than_they_gain_are_not_verified() -> None:
    sim = SchedulerSim(costs=lambda rows: STEP if rows <= 16 else STEP + rows)
    for key in range(1, 6):
        sim.open(key)
    sim.step()
    for key in range(1, 6):
        sim.draft(key, 1, 1, range(2, 10))
    output = sim.scheduler.schedule(sim.now)
    assert sum(1 + len(item.draft) for item in output.scheduled) == 16


def test_drafts_of_an_agent_that_is_always_wrong_are_no_longer_verified() -> None:
    sim = SchedulerSim(costs=lambda rows: STEP + 0.01 * (rows - 1))
    sim.open(1, agent="agent")
    lengths = []
    for i in range(30):
        sim.draft(1, i, i + 1, [999, 998, 997])
        work = sim.scheduler.schedule(sim.now).scheduled
        lengths.append(len(work[0].draft))
        sim.step(STEP + 0.01 * lengths[-1])
    assert lengths[0] == 3
    assert not any(lengths[15:])


def test_an_invalid_draft_ends_drafting_but_not_the_session() -> None:
    sim = SchedulerSim()
    sim.open(1, agent="agent")
    with pytest.raises(DraftViolation):
        sim.draft(1, 0, 1, [1000])
    sim.step()
    with pytest.raises(DraftViolation):
        sim.draft(1, 5, 1, [1])
    assert sim.step()[1].tokens == [2]


def test_late_messages_of_a_finished_session_are_ignored() -> None:
    sim = SchedulerSim()
    sim.open(1, tokens=2)
    sim.step()
    assert sim.step()[1].finish == "length"
    assert len(sim.scheduler) == 0
    sim.draft(1, 0, 1, [1])
    sim.scheduler.set_agent(1, "agent")
    sim.scheduler.close(1)


def test_sessions_beyond_capacity_wait_and_those_beyond_the_queue_are_rejected() -> None:
    sim = SchedulerSim(replace(LIMITS, max_waiting=2), max_sessions=2)
    for key in (1, 2):
        sim.open(key, tokens=4)
    assert [sim.open(key, tokens=4) for key in (3, 4)] == [0, 1]
    with pytest.raises(Overloaded) as turned_away:
        sim.open(5)
    assert turned_away.value.retry_after >= 1
    with pytest.raises(RequestRejected):
        sim.open(6, prompt=2000)
    ended = []
    for _ in range(12):
        if len(sim.scheduler) or sim.scheduler.num_waiting:
            ended += [key for key, commit in sim.step().items() if commit.finish]
    assert ended == [1, 2, 3, 4]
    assert sim.scheduler.num_waiting == 0


def test_higher_priorities_are_admitted_first_and_resumed_sessions_before_all() -> None:
    sim = SchedulerSim(replace(LIMITS, max_waiting=3), max_sessions=1)
    sim.open(1, tokens=2)
    assert [sim.open(2, tokens=2), sim.open(3, tokens=2, priority=5)] == [0, 0]
    assert sim.open(4, tokens=3, committed=[7]) == 0
    with pytest.raises(Overloaded):
        sim.open(5, tokens=2)
    assert sim.open(6, tokens=2, priority=5) == 2, "behind those of the same priority"
    [(rejected, reason)] = sim.scheduler.drop_expired(sim.now)
    assert (rejected, reason.retry_after) == (2, 1), "the last of the lowest priority was displaced"
    ended = []
    while len(sim.scheduler) or sim.scheduler.num_waiting:
        ended += [key for key, commit in sim.step().items() if commit.finish]
    assert ended == [1, 4, 3, 6]


def test_no_session_waits_longer_than_the_limit() -> None:
    sim = SchedulerSim(replace(LIMITS, max_wait=3.5 * STEP), max_sessions=1)
    sim.open(1, tokens=500)
    sim.step()
    sim.open(2)
    sim.step()
    sim.step()
    sim.open(3)
    assert sim.scheduler.drop_expired(sim.now) == []
    sim.step()
    sim.step()
    assert [key for key, _ in sim.scheduler.drop_expired(sim.now)] == [2]
    assert sim.scheduler.drop_expired(sim.now) == []
    assert sim.scheduler.num_waiting == 1


def test_a_session_with_too_long_an_expected_wait_is_rejected_at_once() -> None:
    """Answers come to ten tokens, a token a step: the third in line would wait for thirty steps."""
    sim = SchedulerSim(replace(LIMITS, max_wait=25 * STEP), max_sessions=1)
    for key in range(1, 30):
        sim.open(key, tokens=10)
        while len(sim.scheduler):
            sim.step()
    sim.open(101, tokens=400)
    sim.step()
    assert [sim.open(102, tokens=400), sim.open(103, tokens=400)] == [0, 1]
    with pytest.raises(Overloaded, match="it would take about"):
        sim.open(104, tokens=400)
    assert sim.open(105, tokens=400, priority=9) == 0, "its wait is shorter"
    assert sim.open(106, tokens=400, committed=[1]) == 0, "a resumed session is not rejected"


def test_waiting_sessions_take_drafts_can_be_closed_and_keep_their_order() -> None:
    sim = SchedulerSim(max_sessions=1)
    sim.open(1, tokens=2)
    for key in (2, 3, 4):
        sim.open(key, tokens=6, agent="agent")
    sim.draft(2, 0, 1, [1, 2, 3])
    with pytest.raises(DraftViolation):
        sim.draft(4, 0, 1, [5000])
    sim.scheduler.close(3)
    sim.step()
    assert sim.step()[1].finish
    commit = sim.step()[2]
    assert commit.accepted == 3, "its draft arrived while it waited"
    assert sim.scheduler.num_waiting == 1
    sim.scheduler.close(2)
    assert 4 in sim.step()
