"""Draft statistics: sums per session and in total, from several threads."""

from __future__ import annotations

import threading

from edge_agent.drafting.stats import DraftStats, StatsCollector


def test_sums_are_kept_per_session_and_in_total() -> None:
    stats = StatsCollector()
    stats.begin(1)
    stats.begin(2)
    stats.add(1, DraftStats(drafted=4, accepted=2, committed=3))
    stats.add(1, DraftStats(drafted=1))
    snapshot = stats.snapshot()
    assert snapshot.sessions == {1: DraftStats(5, 2, 3), 2: DraftStats()}
    assert snapshot.total == DraftStats(5, 2, 3)


def test_an_ended_session_counts_in_the_total_only() -> None:
    stats = StatsCollector()
    stats.begin(1)
    stats.add(1, DraftStats(drafted=4))
    assert stats.end(1) == DraftStats(drafted=4)
    assert stats.end(1) == DraftStats()
    assert stats.snapshot().sessions == {}
    assert stats.snapshot().total == DraftStats(drafted=4)


def test_a_restarted_session_keeps_its_sums() -> None:
    stats = StatsCollector()
    stats.begin(1)
    stats.add(1, DraftStats(committed=2))
    stats.begin(1)
    assert stats.snapshot().sessions == {1: DraftStats(committed=2)}


def test_no_addition_is_lost_between_threads() -> None:
    stats = StatsCollector()

    def add() -> None:
        for _ in range(500):
            stats.add(1, DraftStats(1, 1, 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stats.snapshot().total == DraftStats(2000, 2000, 2000)
