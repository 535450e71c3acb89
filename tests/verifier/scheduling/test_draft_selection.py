"""Which draft of a session is verified: the agent's, the client's prediction or prompt lookup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from edgedraft.wire import Draft, Open, Sampling
from tests.verifier.counting_engine import LIMITS, STEP, SchedulerSim
from verifier.engine.interface import RequestRejected


def test_an_engine_without_trees_gets_the_most_likely_path() -> None:
    sim = SchedulerSim()
    sim.scheduler._engine.supports_trees = False
    sim.open(1)
    at = sim.decode_three(1)
    # A more likely node without children, and a less likely one with a certain chain below it.
    confidence = bytes([6, 10, 0, 0])
    sim.scheduler.add_draft(1, Draft(1, 1, at, 1, [9, 4, 5, 6], [0, 0, 2, 3], confidence), sim.now)
    (work,) = sim.scheduler.schedule(sim.now).scheduled
    assert (work.draft.tokens, work.draft.parents) == ((4, 5, 6), (-1, 0, 1))


def test_without_an_agent_prompt_lookup_drafts_and_commits_are_marked() -> None:
    sim = SchedulerSim()
    sim.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500), sim.now)
    commit = [sim.step()[1] for _ in range(6)][-1]
    # The engine counts up, and after 5 came 6 before.
    assert commit.accepted > 0
    assert commit.verifier_drafted
    assert commit.tokens == list(range(commit.tokens[0], commit.tokens[0] + commit.accepted + 1))


def test_prompt_lookup_can_be_switched_off() -> None:
    sim = SchedulerSim(replace(LIMITS, prompt_lookup=False))
    sim.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500), sim.now)
    assert not any(sim.step()[1].nodes for _ in range(8))


def test_prompt_lookup_is_used_until_the_agents_draft_arrives() -> None:
    sim = SchedulerSim()
    sim.scheduler.open(1, Open(1, [*range(1, 40), 7, 8], Sampling(temperature=0), 500, agent="agent"), sim.now)
    commits = [made[1] for _ in range(8) if 1 in (made := sim.step_or_wait())]
    assert any(commit.verifier_drafted and commit.accepted for commit in commits)
    at = commits[-1].at + len(commits[-1].tokens)
    sim.draft(1, at, 1, [at + 1])
    commit = sim.step_or_wait()[1]
    assert (commit.verifier_drafted, commit.accepted, commit.nodes) == (False, 1, 1), "the agent's draft promises more"


def test_nodes_of_a_detached_agent_still_count_as_its_own() -> None:
    sim = SchedulerSim()
    sim.open(1, agent="agent")
    sim.draft(1, 0, 1, [1, 2, 3])
    sim.scheduler.set_agent(1, "")
    commit = sim.step()[1]
    assert commit.accepted == 3
    assert not commit.verifier_drafted


def predicting(prediction: Sequence[int], agent: str = "", **more: object) -> Open:
    return Open(1, [0], Sampling(temperature=0), 500, agent=agent, prediction=list(prediction), **more)  # type: ignore[arg-type]


def test_the_clients_prediction_is_verified_and_marked_as_the_verifiers_draft() -> None:
    sim = SchedulerSim()
    sim.open(2)
    sim.decode_three(2)
    sim.scheduler.close(2)
    sim.scheduler.open(1, predicting([*range(1, 10), 77, 78, *range(12, 40)]), sim.now)
    commits = [sim.step()[1] for _ in range(6)]
    text = [token for commit in commits for token in commit.tokens]
    assert text == list(range(1, len(text) + 1))
    assert len(text) > 24, "it continued after the wrong part of the prediction"
    assert (commits[0].accepted, commits[0].verifier_drafted) == (8, True)


def test_the_draft_that_promises_more_tokens_is_verified() -> None:
    sim = SchedulerSim()
    sim.open(2)
    sim.decode_three(2)
    sim.scheduler.close(2)
    sim.scheduler.open(1, predicting([1, 2, 3, 90, 91], agent="agent"), sim.now)
    commit = sim.step()[1]
    assert (commit.tokens, commit.verifier_drafted) == ([1, 2, 3, 4], True), "it does not wait for the agent"
    sim.draft(1, 4, 1, [5, 6, 7])
    commit = sim.step()[1]
    assert (commit.tokens, commit.verifier_drafted) == ([5, 6, 7, 8], False)


def test_wrong_predictions_are_soon_ignored_and_do_not_affect_other_tenants() -> None:
    sim = SchedulerSim(costs=lambda rows: STEP * (1 + 0.1 * rows))
    sim.open(9)
    sim.decode_three(9)
    sim.scheduler.close(9)
    wrong = [number for start in range(1, 200) for number in (start, 900)]
    nodes = []
    for key in range(1, 30):
        sim.scheduler.open(key, predicting(wrong, salt="a"), sim.now)
        nodes.append(sim.step()[key].nodes)
        sim.scheduler.close(key)
    assert nodes[0] > nodes[-1]
    sim.scheduler.open(50, predicting(range(1, 30), salt="b"), sim.now)
    assert sim.step()[50].nodes > nodes[-1]


def test_a_resumed_session_continues_in_its_prediction() -> None:
    sim = SchedulerSim()
    sim.open(2)
    sim.decode_three(2)
    sim.scheduler.close(2)
    sim.scheduler.open(1, predicting([900, 901, 1, 2, 3], committed=[900, 901]), sim.now)
    assert sim.step()[1].tokens[:2] == [1, 2]


@pytest.mark.parametrize(("prediction", "message"), [([1000], "outside the vocabulary"), ([1] * 1001, "exceeds")])
def test_a_prediction_out_of_bounds_is_rejected(prediction: list[int], message: str) -> None:
    with pytest.raises(RequestRejected, match=message):
        SchedulerSim().scheduler.open(1, predicting(prediction), 0.0)
