"""How improbable a place may be: by the drafters' speed beside the verifier's."""

from __future__ import annotations

import pytest

from edge_agent.drafting.pace import LEAST, MOST, SQUARE, DraftThreshold
from edge_agent.drafting.session import LEAST_PATH
from tests.edge_agent.drafting.test_session import expand, fan, session


def paced(look: float, interval: float) -> float:
    pace = DraftThreshold()
    pace.looked(look)
    pace.committed(interval)
    return pace.least_path


def test_until_both_are_measured_it_is_a_fixed_one() -> None:
    pace = DraftThreshold()
    assert pace.least_path == LEAST_PATH
    pace.looked(0.01)
    assert pace.least_path == LEAST_PATH


def test_fast_drafters_look_into_every_corner_and_slow_ones_only_where_it_pays() -> None:
    cuts = [paced(look, 0.04) for look in (0.0001, 0.004, 0.01, 0.02, 1.0)]
    assert cuts == sorted(cuts)
    assert cuts[0] == LEAST
    assert cuts[1] == pytest.approx(SQUARE / 100)
    assert cuts[-1] == MOST


def test_it_follows_the_latest_measurements() -> None:
    pace = DraftThreshold()
    for look in [0.001] * 50 + [0.02] * 50:
        pace.looked(look)
        pace.committed(0.04)
    assert pace.least_path == pytest.approx(SQUARE * 0.25, rel=0.05)


def test_a_session_drafts_no_place_below_it() -> None:
    drafting = session()
    drafting.least_path = 0.2
    draft = expand(drafting, fan((7, 0.5), (8, 0.15)))
    assert draft is not None
    assert draft.tokens == [7]
    drafting.least_path = 0.6
    assert drafting.point() is None
