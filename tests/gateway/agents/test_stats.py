"""Counters of an agent and its response time."""

from __future__ import annotations

import pytest

from edgedraft.wire import Commit, Draft
from gateway.agents.stats import AgentStats, SlotStats


def draft(at: int, first: int = 1) -> Draft:
    return Draft(1, 1, at, first, [5, 6], [0, 1], b"\0\0")


def test_counters_are_sums_over_sessions() -> None:
    stats = AgentStats()
    for slot in (SlotStats(stats, None), SlotStats(stats, None)):
        slot.record_draft(draft(0))
        slot.record_commit(Commit(1, 0, [5, 7], nodes=2, depth=2, accepted=1))
        slot.end(lost=False)
    assert (stats.sessions, stats.drafted, stats.checked, stats.accepted, stats.committed) == (2, 4, 4, 2, 4)


def test_the_response_time_is_from_a_commit_to_the_first_node_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("gateway.agents.stats.time.monotonic", lambda: now)
    stats = AgentStats()
    slot = SlotStats(stats, None)
    slot.record_draft(draft(0))
    assert stats.answer is None, "nothing was committed before it"
    slot.record_commit(Commit(1, 0, [5, 7]))
    now = 10.5
    slot.record_draft(draft(0))
    slot.record_draft(draft(2, first=3))
    assert stats.answer is None, "of an older epoch, or not its first node"
    slot.record_draft(draft(2))
    assert stats.answer == 0.5
    slot.record_commit(Commit(1, 2, [5]))
    now = 11.5
    slot.record_draft(draft(3))
    assert stats.answer == pytest.approx(0.6)
