"""The draft tree: one minimal example per rule of tree.py."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from edgedraft.tree import EMPTY_DRAFT, MAX_EPOCH_STEP, DraftSlice, DraftTree, DraftViolation


def grown(*nodes: tuple[int, int, int], committed: tuple[int, ...] = (), max_nodes: int = 64) -> DraftTree:
    """A tree with epoch 1 starting at the end of `committed` and nodes 1, 2, ... of (token, parent, cost)."""
    tree = DraftTree(max_nodes, committed)
    add(tree, *nodes, at=len(committed))
    return tree


def add(tree: DraftTree, *nodes: tuple[int, int, int], epoch: int = 1, at: int = 0, first: int = 1) -> int:
    tokens, parents, costs = zip(*nodes, strict=True)
    return tree.add(epoch, at, first, tokens, parents, bytes(costs))


def ids(tree: DraftTree) -> list[int]:
    return [node.id for node in tree.live_nodes()]


# Committing


def test_a_commit_advances_the_cursor_and_drops_what_contradicts() -> None:
    # Two branches below the root: nodes 1, 3, 4 and nodes 2, 5.
    tree = grown((10, 0, 1), (11, 0, 2), (12, 1, 3), (13, 3, 4), (12, 2, 5))
    assert len(tree) == 5
    assert tree.commit(0, [10, 12]) == 2
    assert (tree.cursor, tree.surplus, ids(tree)) == (3, 0, [3, 4])
    assert tree.committed == [10, 12]


def test_a_commit_that_leaves_the_tree_drops_all_of_it() -> None:
    tree = grown((10, 0, 1), (11, 1, 1), (12, 1, 1))
    assert tree.commit(0, [10, 99, 11]) == 1
    assert (tree.cursor, tree.surplus, len(tree)) == (1, 2, 0)
    assert tree.select(8) is EMPTY_DRAFT


def test_a_commit_must_continue_the_text() -> None:
    tree = grown((10, 0, 1), committed=(7, 8))
    for at in (0, 1, 3, 5):
        with pytest.raises(ValueError, match=f"commit at {at}, but 2 tokens are committed"):
            tree.commit(at, [10])
    assert tree.committed == [7, 8]
    assert len(tree) == 1


def test_an_empty_commit_changes_nothing() -> None:
    tree = grown((10, 0, 1))
    assert tree.commit(0, []) == 0
    assert (len(tree), tree.committed) == (1, [])


# Late nodes


def test_late_nodes_catch_up_with_the_text_and_draft_on() -> None:
    tree = DraftTree(64)
    tree.commit(0, [10, 11, 12])
    assert tree.surplus == 3
    assert add(tree, (10, 0, 1), (11, 1, 1)) == 2
    assert (tree.surplus, tree.cursor, len(tree)) == (1, 2, 0)
    assert add(tree, (12, 2, 1), (13, 3, 1), first=3) == 2
    assert (tree.surplus, tree.cursor, ids(tree)) == (0, 3, [3, 4])
    assert tree.select(8).tokens == (13,)


def test_a_late_node_that_contradicts_is_dropped_with_its_descendants() -> None:
    tree = DraftTree(64)
    tree.commit(0, [10, 11])
    assert add(tree, (99, 0, 1), (11, 1, 1), (10, 0, 1), (98, 2, 1)) == 1  # only node 3
    assert (tree.surplus, tree.cursor, len(tree)) == (1, 3, 0)


def test_late_siblings_of_the_committed_path_are_dropped() -> None:
    tree = grown((10, 0, 1))
    tree.commit(0, [10])
    assert add(tree, (11, 0, 1), first=2) == 0
    assert add(tree, (11, 1, 1), first=3) == 1


def test_late_nodes_do_not_count_against_the_bound() -> None:
    tree = DraftTree(1)
    tree.commit(0, [10, 11, 12])
    assert add(tree, (10, 0, 1), (11, 1, 1), (12, 2, 1), (13, 3, 1)) == 4
    assert len(tree) == 1

    without_room = DraftTree(0)
    without_room.commit(0, [10, 11])
    assert add(without_room, (10, 0, 1), (11, 1, 1)) == 2
    assert without_room.surplus == 0


# Drafts that are of no more use


def test_other_tokens_where_the_text_continues_call_for_an_epoch() -> None:
    tree = grown((10, 0, 1), (11, 1, 1), (12, 1, 1))
    tree.commit(0, [10, 99])
    assert tree.awaits_epoch
    assert add(tree, (20, 0, 1), epoch=2, at=2) == 1
    assert not tree.awaits_epoch


def test_a_draft_that_ends_before_the_text_does_may_go_on() -> None:
    tree = grown((10, 0, 1))
    tree.commit(0, [10, 11])
    assert not tree.awaits_epoch
    assert add(tree, (99, 1, 1), first=2) == 0
    assert tree.awaits_epoch, "what was under way contradicts"
    tree.commit(2, [12])
    assert tree.awaits_epoch


def test_a_right_sibling_that_comes_later_is_of_use() -> None:
    tree = grown((10, 0, 1), (99, 1, 1))
    tree.commit(0, [10, 11])
    assert tree.awaits_epoch
    assert add(tree, (11, 1, 1), first=3) == 1
    assert not tree.awaits_epoch


def test_before_its_first_node_a_tree_awaits_an_epoch() -> None:
    tree = DraftTree(64)
    assert tree.awaits_epoch
    assert add(tree, (10, 0, 1)) == 1
    assert not tree.awaits_epoch


# Epochs


def test_a_new_epoch_replaces_the_tree() -> None:
    tree = grown((10, 0, 1), (11, 1, 1))
    tree.commit(0, [10])
    assert add(tree, (20, 0, 1), epoch=2, at=1) == 1
    assert (tree.epoch, tree.at, tree.cursor, ids(tree)) == (2, 1, 0, [0, 1])


def test_a_new_epoch_that_starts_before_the_end_of_the_text_catches_up() -> None:
    tree = DraftTree(64, [10, 11, 12])
    assert add(tree, (11, 0, 1), (12, 1, 1), (13, 2, 1), epoch=5, at=1) == 3
    assert (tree.surplus, tree.cursor, tree.select(8).tokens) == (0, 2, (13,))


def test_drafts_of_an_earlier_epoch_are_dropped_whatever_they_hold() -> None:
    tree = grown((10, 0, 1))
    add(tree, (20, 0, 1), epoch=3)
    assert add(tree, (10, 999, 1), epoch=2, at=77, first=0) == 0
    assert tree.epoch == 3
    assert len(tree) == 1


def test_start_epoch_counts_up_and_starts_at_the_end_of_the_text() -> None:
    tree = grown((10, 0, 1), committed=(1, 2))
    tree.commit(2, [3])
    tree.start_epoch()
    assert (tree.epoch, tree.at, tree.next_id, tree.surplus, len(tree)) == (2, 3, 1, 0, 0)


def test_the_inherited_epoch_starts_where_its_first_draft_says() -> None:
    """A verifier that takes over knows the last epoch, but not where it started."""
    tree = DraftTree(64, [10, 11], epoch=7)
    assert add(tree, (10, 0, 1), (11, 1, 1), (12, 2, 1), epoch=7, at=0) == 3
    assert tree.select(8).tokens == (12,)
    with pytest.raises(DraftViolation, match="epoch 7 was planted at 0, not at 2"):
        add(tree, (12, 0, 1), epoch=7, at=2, first=4)

    without_beginning = DraftTree(64, [10, 11], epoch=7)
    assert add(without_beginning, (12, 5, 1), epoch=7, at=0, first=6) == 0
    assert len(without_beginning) == 0


# Dropped silently


def test_nodes_of_a_lost_parent_are_dropped() -> None:
    tree = grown((10, 0, 1))
    assert add(tree, (11, 3, 1), (12, 4, 1), (11, 1, 1), first=4) == 1  # node 3 was lost; 5 hangs from it
    assert ids(tree) == [0, 1, 6]


def test_a_second_child_of_one_token_is_dropped() -> None:
    tree = grown((10, 0, 1))
    assert add(tree, (10, 0, 9), (11, 2, 1), first=2) == 0
    assert ids(tree) == [0, 1]
    assert tree.next_id == 4


# Violations

VIOLATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"parents": [0]}, "a draft's columns differ in length"),
    "confidence": ({"confidence": b"a"}, "a draft's columns differ in length"),
    "epoch": ({"epoch": 2 + MAX_EPOCH_STEP}, f"epoch {2 + MAX_EPOCH_STEP} is too far above epoch 1"),
    "future": ({"epoch": 2, "at": 3, "first": 1}, "an epoch is planted at 3, past the 2 committed tokens"),
    "moved": ({"at": 1}, "epoch 1 was planted at 2, not at 1"),
    "again": ({"first": 1}, "node 1 does not come after node 1"),
    "root": ({"epoch": 2, "first": 0}, "node 0 does not come after node 0"),
    "itself": ({"parents": [1, 3]}, "node 3 has parent 3, which does not exist"),
    "forward": ({"parents": [1, 9]}, "node 3 has parent 9, which does not exist"),
    "negative": ({"parents": [-1, 0]}, "node 2 has parent -1, which does not exist"),
    "new and wrong": ({"epoch": 2, "parents": [1, 3]}, "node 3 has parent 3, which does not exist"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_states_its_rule_and_adds_nothing(name: str) -> None:
    changes, message = VIOLATIONS[name]
    correct: dict[str, Any] = {"epoch": 1, "at": 2, "first": 2, "tokens": [11, 12], "parents": [1, 2]}
    correct["confidence"] = b"ab"
    tree = grown((10, 0, 1), committed=(7, 8))
    with pytest.raises(DraftViolation) as raised:
        tree.add(**(correct | changes))
    assert str(raised.value) == message
    assert (tree.epoch, tree.at, tree.next_id, ids(tree)) == (1, 2, 2, [0, 1])
    assert tree.add(**correct) == 2


def test_one_node_too_many_is_a_violation() -> None:
    tree = DraftTree(2)
    with pytest.raises(DraftViolation, match="more than 2 drafted nodes are uncommitted"):
        add(tree, (10, 0, 1), (11, 0, 1), (12, 0, 1))
    assert ids(tree) == [0, 1, 2]
    tree.commit(0, [10])
    assert len(tree) == 0


def test_epochs_may_be_skipped() -> None:
    tree = DraftTree(64)
    assert add(tree, (10, 0, 1), epoch=MAX_EPOCH_STEP) == 1


# Selecting what to verify


def test_select_returns_tokens_parents_costs_and_depths_below_the_cursor() -> None:
    tree = grown((10, 0, 3), (11, 1, 5), (12, 1, 2), (13, 3, 7))
    assert tree.select(8) == DraftSlice((10, 11, 12, 13), (-1, 0, 0, 2), (3, 8, 5, 12), (1, 2, 2, 3))
    tree.commit(0, [10])
    assert tree.select(8) == DraftSlice((11, 12, 13), (-1, -1, 1), (5, 2, 9), (1, 1, 2))
    assert tree.select(2) == DraftSlice((11, 12), (-1, -1), (5, 2), (1, 1))
    assert tree.select(1) == DraftSlice((12,), (-1,), (2,), (1,))


@pytest.mark.parametrize("budget", [0, -1])
def test_select_without_budget_is_empty(budget: int) -> None:
    assert grown((10, 0, 1)).select(budget) is EMPTY_DRAFT


def test_select_is_empty_while_the_text_runs_ahead() -> None:
    tree = grown((10, 0, 1), (11, 1, 1))
    tree.commit(0, [10, 99])
    assert tree.select(8) is EMPTY_DRAFT


@pytest.mark.parametrize("seed", range(20))
def test_select_is_connected_and_the_most_confident_choice(seed: int) -> None:
    rng = random.Random(seed)
    tree = DraftTree(64)
    for i in range(1, 10):
        add(tree, (i, rng.randrange(i), rng.choice([0, 1, 5, 40, 255])), first=i)
    child = rng.choice([node for node in tree.live_nodes() if node.parent == 0])
    tree.commit(0, [child.token])
    nodes = {node.id: node for node in tree.live_nodes() if node.id != tree.cursor}
    base = tree.node(tree.cursor).cost
    for budget in range(1, len(nodes) + 2):
        chosen = tree.select(budget)
        # Connected, in topological order, and a true picture of the tree.
        for i, parent in enumerate(chosen.parents):
            assert parent < i
            node = nodes[chosen.tokens[i]]  # ids and tokens are alike here
            assert node.parent == (tree.cursor if parent < 0 else chosen.tokens[parent])
            assert chosen.costs[i] == node.cost - base
            assert chosen.depths[i] == (1 if parent < 0 else chosen.depths[parent] + 1)
        # No connected choice of that many has a greater sum of path probabilities.
        connected = (
            choice
            for choice in itertools.combinations(nodes, min(budget, len(nodes)))
            if all(nodes[i].parent in (tree.cursor, *choice) for i in choice)
        )
        worth = max(sum(2 ** (-(nodes[i].cost - base) / 16) for i in choice) for choice in connected) if nodes else 0
        assert sum(2 ** (-cost / 16) for cost in chosen.costs) == pytest.approx(worth)
        assert len(chosen) == min(budget, len(nodes))


def test_of_equal_nodes_the_older_is_selected() -> None:
    assert grown((10, 0, 4), (11, 0, 4), (12, 1, 0)).select(2).tokens == (10, 11)


# Inspecting the tree


def test_the_most_likely_path_has_the_most_expected_tokens() -> None:
    # A sure node without children against one that is less sure and has a sure chain below.
    tree = grown((10, 0, 8), (11, 0, 12), (12, 2, 1), (13, 2, 60), (14, 3, 1))
    path = tree.select(8).most_likely_path()
    assert (path.tokens, path.parents, path.costs, path.depths) == ((11, 12, 14), (-1, 0, 1), (12, 13, 14), (1, 2, 3))
    assert tree.select(1).most_likely_path().tokens == (10,)
    assert len(EMPTY_DRAFT.most_likely_path()) == 0


def test_path_leads_from_the_cursor_to_the_node() -> None:
    tree = grown((10, 0, 1), (11, 1, 1), (12, 2, 1), (13, 1, 1))
    assert tree.path(3) == [10, 11, 12]
    assert tree.path(0) == []
    tree.commit(0, [10])
    assert tree.path(3) == [11, 12]
    assert tree.path(4) == [13]
    assert tree.path(tree.cursor) == []


def test_dropped_nodes_are_gone() -> None:
    tree = grown((10, 0, 1), (11, 0, 1), (12, 2, 1))
    tree.commit(0, [10])
    for gone in (0, 2, 3, 4):
        with pytest.raises(KeyError):
            tree.node(gone)
        with pytest.raises(KeyError):
            tree.path(gone)
    assert tree.node(1).token == 10


def test_next_id_goes_up_with_every_node_seen() -> None:
    tree = DraftTree(64)
    assert tree.next_id == 1
    add(tree, (10, 0, 1), first=5)
    assert tree.next_id == 6
    tree.commit(0, [99])
    assert tree.next_id == 6
    tree.start_epoch()
    assert tree.next_id == 1


def test_a_tree_begins_with_the_text_that_exists() -> None:
    text = [1, 2, 3]
    tree = DraftTree(64, text, epoch=4)
    text.append(9)
    assert (tree.committed, tree.epoch, tree.surplus, len(tree)) == ([1, 2, 3], 4, 0, 0)
    assert tree.commit(3, [4]) == 0
