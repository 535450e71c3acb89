"""The draft threshold by the speeds of drafter and verifier."""

from __future__ import annotations

import pytest

from edge_agent.drafting.draft_session import DEFAULT_MIN_PATH
from edge_agent.drafting.draft_threshold import MAX_THRESHOLD, MIN_THRESHOLD, SCALE, DraftThreshold
from tests.edge_agent.drafting.test_draft_session import expand, fan, session


def min_path_after(forward_seconds: float, interval: float) -> float:
    pace = DraftThreshold()
    pace.record_forward(forward_seconds)
    pace.record_commit(interval)
    return pace.min_path


def test_until_both_are_measured_it_is_a_fixed_one() -> None:
    pace = DraftThreshold()
    assert pace.min_path == DEFAULT_MIN_PATH
    pace.record_forward(0.01)
    assert pace.min_path == DEFAULT_MIN_PATH


def test_fast_drafters_look_into_every_corner_and_slow_ones_only_where_it_pays() -> None:
    cuts = [min_path_after(forward_seconds, 0.04) for forward_seconds in (0.0001, 0.004, 0.01, 0.02, 1.0)]
    assert cuts == sorted(cuts)
    assert cuts[0] == MIN_THRESHOLD
    assert cuts[1] == pytest.approx(SCALE / 100)
    assert cuts[-1] == MAX_THRESHOLD


def test_it_follows_the_latest_measurements() -> None:
    pace = DraftThreshold()
    for forward_seconds in [0.001] * 50 + [0.02] * 50:
        pace.record_forward(forward_seconds)
        pace.record_commit(0.04)
    assert pace.min_path == pytest.approx(SCALE * 0.25, rel=0.05)


def test_a_session_drafts_no_place_below_it() -> None:
    drafting = session()
    drafting.min_path = 0.2
    draft = expand(drafting, fan((7, 0.5), (8, 0.15)))
    assert draft is not None
    assert draft.tokens == [7]
    drafting.min_path = 0.6
    assert drafting.next_request() is None
