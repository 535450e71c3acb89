"""The played-back agents and the fixed depths of `bench schedule`, and the trace that they play."""

from __future__ import annotations

import pytest

from edgedraft.tree import DraftSlice, DraftTree
from loadtest.schedule import LINK_SECONDS, ROUND_SECONDS, _Agent, _fixed, _holds
from loadtest.trace import Tree, load

TREE = Tree([5, 6, 7], [0, 0, 2], bytes([8, 30, 4]), [1, 1, 2])


def test_the_recorded_trees_are_drafts_that_a_verifier_takes() -> None:
    conversations = load()
    assert len(conversations) == 24
    foreseen = 0
    for conversation in conversations:
        assert len(conversation.trees) == len(conversation.text)
        for at, tree in enumerate(conversation.trees):
            taken = DraftTree(64, conversation.text[:at])
            if tree.tokens:
                taken.add(1, at, 1, tree.tokens, tree.parents, tree.confidence)
            foreseen += _holds(tree, conversation.text[at : at + 1])
    assert foreseen > 0.6 * sum(len(conversation.text) for conversation in conversations)


def test_an_agent_sends_its_rounds_one_after_the_other_and_a_wrong_one_is_sure_of_itself() -> None:
    drafts = _Agent(3, [TREE], wrong=False).plant(0, 100.0)
    assert [(round(at - 100.0, 6), draft.tokens, draft.parents) for at, _, draft in drafts] == [
        (LINK_SECONDS, [5], [0]),
        (LINK_SECONDS, [6], [0]),
        (round(LINK_SECONDS + ROUND_SECONDS, 6), [7], [2]),
    ]
    wrong = _Agent(3, [TREE], wrong=True).plant(0, 100.0)
    assert all(draft.confidence == bytes(1) for _, _, draft in wrong)
    assert [draft.tokens for _, _, draft in wrong] == [[6], [7], [8]]


def test_after_a_commit_that_was_foreseen_the_next_tree_is_there_already() -> None:
    agent = _Agent(3, [TREE, TREE, TREE], wrong=False)
    agent.plant(0, 100.0)
    assert all(at <= 101.0 for at, _, _ in agent.committed(2, [6, 7], 1, 101.0))
    assert all(at > 102.0 for at, _, _ in agent.committed(2, [9], 0, 102.0))


@pytest.mark.parametrize(("depth", "nodes"), [(1, [0]), (2, [0]), (8, [0])])
def test_a_fixed_depth_goes_down_the_most_probable_path(depth: int, nodes: list[int]) -> None:
    draft = DraftSlice((5, 6, 7), (-1, -1, 1), (8, 30, 34), (1, 1, 2))
    assert _fixed(depth)({1: draft}, {1: [0.7, 0.3, 0.2]}, 1, 1.0, 99, lambda rows: 1.0) == {1: nodes}
    deeper = DraftSlice((5, 6, 7), (-1, -1, 1), (30, 8, 12), (1, 1, 2))
    assert _fixed(depth)({1: deeper}, {1: [0.3, 0.7, 0.6]}, 1, 1.0, 99, lambda rows: 1.0) == {1: [1, 2][:depth]}
