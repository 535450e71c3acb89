"""Ideal drafts: the oracle's most probable nodes, and a rate that nothing with real drafts reaches."""

from __future__ import annotations

import pytest

from edgedraft.tree import DraftTree
from loadtest.policy.cells import Cell, ServerLoad
from loadtest.policy.comparison import measure_cells
from loadtest.policy.references.bounds import ideal
from loadtest.policy.references.ideal_scheduler import IdealScheduler
from loadtest.policy.references.simple_scheduler import SimpleSession
from loadtest.policy.setting import Effort
from loadtest.policy.world import make_world
from loadtest.simulator.playback import PlaybackEngine
from loadtest.specedge.prices import Prices

LOAD = ServerLoad("a100-32b", 0.75, 16)
EFFORT = Effort(1, Prices(5.05, 0.35, 350, 0.17), 32, short=True)


def test_a_tree_holds_the_most_probable_nodes_and_no_token_beyond_the_text() -> None:
    world = make_world(0.75, 0)
    scheduler = IdealScheduler(PlaybackEngine(world.chats), world, streams=16)
    chat = world.chats[0]

    def tree(at: int) -> tuple[int, ...]:
        draft = scheduler.draft(SimpleSession(chat.prompt, DraftTree(64, chat.text[:at]), 1, 0))
        assert all(draft.costs[i] >= draft.costs[parent] for i, parent in enumerate(draft.parents) if parent >= 0)
        first = world.oracle.propose((chat.number, at, ()))
        assert not len(draft) or draft.tokens[0] == first.tokens[0]
        return draft.depths

    assert len(tree(0)) == 32
    assert max(tree(len(chat.text) - 3)) == 2
    assert tree(len(chat.text) - 1) == ()


@pytest.mark.long
def test_no_system_exceeds_ideal_drafts() -> None:
    rows = measure_cells([Cell(LOAD, 0, 1)], ["datacenter_only", "edgedraft", "ideal"], EFFORT)
    rates = {row["system"]: row["tokens_per_s"] for row in rows}
    assert max(rates, key=rates.__getitem__) == "ideal drafts"
    assert ideal(LOAD, EFFORT)[0]["tokens_per_verify"] > 2.5
