"""The estimated verifier time of a request without drafts."""

from __future__ import annotations

from edgedraft.wire import Commit
from gateway.ledger.baseline import PlainStepTimes, baseline_ns
from gateway.records.speculation_stats import SpeculationStats


def stats(*steps: tuple[int, int, float]) -> SpeculationStats:
    """Of steps of so many tokens, checked nodes and milliseconds."""
    made = SpeculationStats()
    at = 0
    for tokens, nodes, milliseconds in steps:
        made.add(Commit(1, at, [1] * tokens, 0, nodes, nodes, tokens - 1, milliseconds / 1000), paired=nodes > 0)
        at += tokens
    return made


def test_the_estimate_uses_the_best_known_plain_step_time() -> None:
    def baseline(*choices: SpeculationStats, pace: PlainStepTimes | None = None) -> float:
        return baseline_ns(choices, "m", pace or PlainStepTimes()) / 1e6

    plain = stats((1, 0, 50), *[(1, 0, 10)] * 9)
    assert baseline(plain) == 140  # as measured
    mixed = stats((1, 0, 50), *[(1, 0, 10)] * 8, (4, 3, 13), (4, 3, 13))
    assert baseline(mixed) == 50 + 16 * 10  # by its own plain steps
    edge = stats((1, 0, 50), (4, 3, 13), (4, 3, 13))
    assert baseline(edge) == 50 + 8 * 13  # nothing better is known
    pace = PlainStepTimes()
    baseline(plain, pace=pace)
    assert baseline(edge, pace=pace) == 50 + 8 * 10  # by the model's recent ones
    assert baseline(stats(), pace=pace) == 0
    assert baseline(edge, plain, pace=pace) == 50 + 8 * 10 + 140


def test_the_first_step_of_a_reopened_session_is_no_plain_one() -> None:
    """It computed prompt and text again: as a plain step it would raise every baseline of the model."""
    moved = stats((1, 0, 50), *[(1, 0, 10)] * 8, (4, 3, 13))
    moved.record_open()
    moved.add(Commit(1, 0, [1], seconds=0.9), paired=False)
    moved.add(Commit(1, 0, [1], seconds=0.01), paired=False)
    pace = PlainStepTimes()
    assert baseline_ns([moved], "m", pace) == (50 + 900 + 13 * 10) * 10**6
    assert pace.mean_ns("m") == 10 * 10**6
    plain = stats((1, 0, 50), (1, 0, 10))
    plain.record_open()
    plain.add(Commit(1, 0, [1], seconds=0.9), paired=False)
    others = PlainStepTimes()
    others.observe("m", 1000, 20 * 10**9)
    assert baseline_ns([plain], "m", others) == 960 * 10**6, "without drafts, what was measured"
