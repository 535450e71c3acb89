"""The computed size of a service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.scale.service_size import (
    TARGET_UTILIZATION,
    busy_cores,
    commits_per_frame,
    sessions_per_verifier,
    size_service,
)
from loadtest.scale.sizes import target_steps
from tests.loadtest.scale.made_up import ASSUMPTIONS, COSTS, RATES


def test_commits_share_frames_where_gateways_are_few() -> None:
    assert commits_per_frame(16, 1) == 16
    assert commits_per_frame(16, 1000) == pytest.approx(1, abs=0.01)
    assert commits_per_frame(16, 4) == pytest.approx(4, abs=0.1)
    assert commits_per_frame(0.2, 1) == 1


def test_a_service_is_as_large_as_its_gateways_need() -> None:
    before = 0
    for agents in (100, 10_000, 1_000_000):
        found = size_service(agents, ASSUMPTIONS, RATES, target_steps(), COSTS)
        assert found.gateways >= before
        assert busy_cores(found, ASSUMPTIONS, COSTS) <= TARGET_UTILIZATION * found.gateways
        before = found.gateways
    assert before > 100
    costly = replace(COSTS, commit=1e-3)
    assert size_service(1_000_000, ASSUMPTIONS, RATES, target_steps(), costly).gateways > before


def test_a_verifier_takes_no_more_sessions_than_keep_their_rate() -> None:
    count = sessions_per_verifier(RATES, target_steps(), 50.0)
    assert count > 1
    assert target_steps().seconds(2 * count) <= RATES.tokens / 50.0
    assert sessions_per_verifier(RATES, target_steps(), 10_000.0) == 1
