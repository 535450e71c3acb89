"""What is learned of a source's drafts."""

from __future__ import annotations

import pytest

from edgedraft.wire import MAX_WINDOW
from verifier.scheduling.draft_growth import MAX_FRAMES, PRICES, DraftGrowth, Values, draft_values


def at_prices(value: float) -> Values:
    """A gain of `value` where rows are free, and less in proportion to their price."""
    return value * (1 - PRICES)


def grow(growth: DraftGrowth, *frames: tuple[int, float]) -> None:
    """Record a draft of these frames, each with its nodes and the value that it adds, many times."""
    for _ in range(200):
        nodes = 0
        for added, gain in frames:
            growth.record_frame(nodes, added, at_prices(gain))
            nodes += added


def test_the_curve_adds_up_what_frames_bring_and_ends_where_nothing_is_known() -> None:
    growth = DraftGrowth()
    assert list(growth.curve(0.0)) == [0.0] * (MAX_FRAMES + 1), "nothing is known"
    grow(growth, (2, 1.0), (3, 0.5), (3, 0.25))
    assert growth.curve(0.0)[:5] == pytest.approx([0.0, 1.0, 1.5, 1.75, 1.75])
    assert len(growth.curve(0.0)) == MAX_FRAMES + 1


def test_few_long_drafts_that_are_worth_more_do_not_raise_what_frames_add() -> None:
    growth = DraftGrowth()
    grow(growth, (2, 1.0), (2, 0.5))
    # One draft in a hundred is worth 3 after two frames and grows on by 0.1; others never get a third frame.
    growth.record_frame(4, 2, at_prices(0.1))
    assert growth.curve(0.0)[:4] == pytest.approx([0.0, 1.0, 1.5, 1.6])


def test_a_draft_is_worth_what_its_nodes_promise_beyond_the_price_of_their_rows() -> None:
    assert list(draft_values([0.9, 0.5, 0.3])) == pytest.approx([1.7, 0.65 + 0.25 + 0.05, 0.4, 0.15, 0.0])
    growth = DraftGrowth()
    growth.record_frame(0, 3, draft_values([0.9, 0.5, 0.3]))
    assert [growth.curve(price)[1] for price in (0.0, 0.25, 0.6, 1.0, 2.0)] == pytest.approx([1.7, 0.95, 0.3, 0.0, 0.0])


def test_a_frame_that_lowers_the_value_counts_as_none() -> None:
    growth = DraftGrowth()
    grow(growth, (2, 1.0), (2, -0.5), (2, 0.5))
    assert growth.curve(0.0)[:4] == pytest.approx([0.0, 1.0, 1.0, 1.5])


def test_a_number_of_nodes_is_as_many_frames_as_usually_bring_them() -> None:
    growth = DraftGrowth()
    grow(growth, (2, 1.0), (4, 0.5), (10, 0.5))
    assert [growth.frames(nodes) for nodes in (0, 1, 2, 4, 6, 11, 16)] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert growth.frames(MAX_WINDOW) == MAX_FRAMES


def test_delays_interval_and_shares_follow_the_newest() -> None:
    growth = DraftGrowth()
    assert growth.delay is None
    growth.record_delay(0.02)
    growth.record_resume_delay(0.005)
    growth.record_interval(0.003)
    assert (growth.delay, growth.resume_delay, growth.interval) == (0.02, 0.005, 0.003)
    for _ in range(200):
        growth.record_delay(0.01)
        growth.record_kept(False)
        growth.record_survival(True)
    assert growth.delay == pytest.approx(0.01, rel=0.01)
    assert growth.kept_after_decode == pytest.approx(0.0, abs=0.01)
    assert growth.survival == pytest.approx(1.0, abs=0.01)


def test_a_copy_is_independent() -> None:
    growth = DraftGrowth()
    growth.record_frame(0, 2, at_prices(1.0))
    copy = growth.copy()
    copy.record_frame(0, 2, at_prices(9.0))
    copy.record_frame(2, 2, at_prices(9.0))
    assert list(growth.curve(0.0)[:3]) == [0.0, 1.0, 1.0]
