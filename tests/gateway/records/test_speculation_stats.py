"""Speculation statistics of a generation, in both shapes."""

from __future__ import annotations

from msgspec.structs import replace

from edgedraft.wire import Commit
from gateway.records.speculation_stats import SpeculationStats, edgedraft_field


def commit(nodes: int, depth: int, accepted: int, seconds: float = 0.5) -> Commit:
    return Commit(1, 0, [1] * (accepted + 1), 16, nodes, depth, accepted, seconds)


def stats_of(*commits: Commit, paired: bool = True) -> SpeculationStats:
    stats = SpeculationStats()
    for entry in commits:
        stats.add(entry, paired)
    return stats


def test_vllms_shape() -> None:
    stats = stats_of(commit(4, 3, 3), commit(4, 3, 0), commit(8, 5, 2), commit(0, 0, 0))
    assert stats.speculative_decoding() == {
        "mean_acceptance_length": 1 + 5 / 3,
        "draft_acceptance_rate": 5 / 16,
        "acceptance_histogram": [1, 0, 1, 1, 0, 0],
        "acceptance_histogram_by_draft_length": {"3": [1, 0, 0, 1], "5": [0, 0, 1, 0, 0, 0]},
        "num_spec_steps": 3,
        "num_accepted_draft_tokens": 5,
        "num_draft_tokens": 16,
        "num_spec_tokens": 5,
    }


def test_modes() -> None:
    edge, alone = stats_of(commit(1, 1, 1)), stats_of(commit(0, 0, 0), paired=False)
    late = stats_of(commit(0, 0, 0), paired=False)
    late.add(commit(2, 2, 1), paired=True)
    assert (edge.mode, alone.mode, late.mode, SpeculationStats().mode) == ("edge", "datacenter", "mixed", "datacenter")
    assert edgedraft_field([edge, alone]) == {
        "mode": "mixed",
        "verifier_steps": 2,
        "verifier_seconds": 1.0,
        "drafted": 1,
        "accepted": 1,
        "verifier_accepted": 0,
    }
    assert edgedraft_field([edge, edge])["mode"] == "edge"


def test_what_the_verifier_drafted_itself_is_not_counted_for_an_agent() -> None:
    own = replace(commit(6, 6, 4), verifier_drafted=True)
    stats = stats_of(own, commit(0, 0, 0), paired=False)
    assert edgedraft_field([stats]) == {
        "mode": "datacenter",
        "verifier_steps": 2,
        "verifier_seconds": 1.0,
        "drafted": 0,
        "accepted": 0,
        "verifier_accepted": 4,
    }
    assert stats.speculative_decoding()["num_accepted_draft_tokens"] == 4
    assert stats.speculative_decoding()["draft_acceptance_rate"] == 4 / 6


def test_cached_tokens_are_the_fewest_that_a_verifier_found() -> None:
    stats = stats_of(replace(commit(0, 0, 0), cached=30), commit(0, 0, 0))
    assert stats.cached == 30
    stats.record_open()
    stats.add(replace(commit(0, 0, 0), cached=12), paired=False)
    stats.add(commit(0, 0, 0), paired=False)
    assert (stats.cached, stats.first_steps, stats.plain_steps) == (12, 2, 2)
    stats.record_open()
    stats.add(replace(commit(0, 0, 0), cached=40), paired=False)
    assert stats.cached == 12
