"""The rolling windows, in a time of the test's own."""

from __future__ import annotations

from edgedraft.wire import Commit
from gateway.observability.live import INTERVAL_SECONDS, INTERVALS, LiveStats

ANN = ("default", "ann")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_tokens_are_counted_by_source_and_interval() -> None:
    clock = Clock()
    live = LiveStats(clock)
    commits, others = live.count_commits(ANN), live.count_commits(ANN)
    commits.record(Commit(1, 0, [1, 2, 3], nodes=5, depth=4, accepted=2, seconds=0.5))
    others.record(Commit(1, 3, [4, 5], nodes=1, depth=1, accepted=1, verifier_drafted=True))
    clock.now += INTERVAL_SECONDS
    commits.record(Commit(1, 5, [6]))
    steps = live.snapshot(ANN)["steps"]
    assert len(steps["edge"]) == INTERVALS
    assert steps["edge"][-2:] == [2, 0]
    assert steps["own"][-2:] == [1, 0]
    assert steps["plain"][-2:] == [2, 1]
    assert steps["forwards"][-2:] == [2, 1]
    assert (steps["drafted"][-2], steps["accepted"][-2], steps["drafts"][-2], steps["seconds"][-2]) == (5, 2, 1, 0.5)
    assert live.snapshot(None)["steps"] == steps


def test_intervals_older_than_five_minutes_are_dropped() -> None:
    clock = Clock()
    live = LiveStats(clock)
    live.count_commits(ANN).record(Commit(1, 0, [1]))
    live.record_end(ANN, "datacenter", 0.2, 0.01)
    clock.now += INTERVAL_SECONDS * (INTERVALS + 1)
    stats = live.snapshot(ANN)
    assert sum(stats["steps"]["plain"]) == 0
    assert stats["requests"] == {"edge": 0, "mixed": 0, "datacenter": 0}
    assert stats["first_text"] == {"p50": None, "p95": None}


def test_medians_leave_out_requests_without_text() -> None:
    live = LiveStats(Clock())
    for seconds in (0.1, 0.2, 0.3, None):
        live.record_end(ANN, "edge", seconds, seconds)
    assert live.snapshot(ANN)["first_text"] == {"p50": 0.2, "p95": 0.2}


def test_accepted_tokens_are_capped_at_committed_ones() -> None:
    live = LiveStats(Clock())
    live.count_commits(ANN).record(Commit(1, 0, [1], nodes=9, depth=9, accepted=9))
    assert live.snapshot(ANN)["steps"]["edge"][-1] == 1
    assert live.snapshot(ANN)["steps"]["plain"][-1] == 0
