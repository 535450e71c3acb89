"""Agents that replay recorded draft trees, and the trace that they replay."""

from __future__ import annotations

import pytest

from edgedraft.tree import DraftTree
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, run
from loadtest.simulator.recorded_chats import from_trace
from loadtest.simulator.systems.traced_agents import (
    ABSENT,
    ACCURATE,
    LINK_SECONDS,
    ROUND_SECONDS,
    WRONG,
    TracedAgent,
    TracedAgents,
    contains_path,
)
from loadtest.simulator.target import recorded_target
from loadtest.workloads.trace import TracedTree, load_trace
from tests.loadtest.conftest import step_seconds
from verifier.scheduling.policy import select_for_goodput
from verifier.scheduling.step_costs import StepCosts

TREE = TracedTree([5, 6, 7], [0, 0, 2], bytes([8, 30, 4]), [1, 1, 2])


def test_the_recorded_trees_are_drafts_that_a_verifier_accepts() -> None:
    traced = load_trace()
    assert len(traced) == 24
    foreseen = 0
    for chat in traced:
        assert len(chat.trees) == len(chat.text)
        for at, tree in enumerate(chat.trees):
            added = DraftTree(64, chat.text[:at])
            if tree.tokens:
                added.add(1, at, 1, tree.tokens, tree.parents, tree.confidence)
            foreseen += contains_path(tree, chat.text[at : at + 1])
    assert foreseen > 0.6 * sum(len(chat.text) for chat in traced)


def test_rounds_arrive_one_after_the_other_and_a_wrong_agent_has_full_confidence() -> None:
    drafts = TracedAgent(3, [TREE], wrong=False).start_epoch(0, 100.0)
    assert [(round(at - 100.0, 6), draft.tokens, draft.parents) for at, draft in drafts] == [
        (LINK_SECONDS, [5], [0]),
        (LINK_SECONDS, [6], [0]),
        (round(LINK_SECONDS + ROUND_SECONDS, 6), [7], [2]),
    ]
    wrong = TracedAgent(3, [TREE], wrong=True).start_epoch(0, 100.0)
    assert all(draft.confidence == bytes(1) for _, draft in wrong)
    assert [draft.tokens for _, draft in wrong] == [[6], [7], [8]]


def test_after_a_foreseen_commit_the_next_tree_is_there_already() -> None:
    agent = TracedAgent(3, [TREE, TREE, TREE], wrong=False)
    agent.start_epoch(0, 100.0)
    assert all(at <= 101.0 for at, _ in agent.committed(2, [6, 7], 1, 101.0))
    assert all(at > 102.0 for at, _ in agent.committed(2, [9], 0, 102.0))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_accurate_agents_save_steps_and_wrong_ones_change_no_text(steps: StepCosts, concurrency: int) -> None:
    traced = load_trace()[:3]
    chats, trees = from_trace(traced), {number: chat.trees for number, chat in enumerate(traced)}
    target = recorded_target(chats, step_seconds, ())
    verifies: dict[str, float] = {}
    for kind in (ACCURATE, WRONG, ABSENT):
        system = TracedAgents(Clock(), target, steps, select_for_goodput, dict.fromkeys(range(len(chats)), kind), trees)
        measured = run(system, chats, Load(concurrency, tokens=120, warmup_tokens=12), seed=1)
        verifies[kind] = measured.meters.verifies / measured.tokens
    assert verifies[ACCURATE] < 0.8
    assert verifies[WRONG] > 0.95  # a wrong token is right by chance now and then
    assert verifies[ABSENT] == 1
