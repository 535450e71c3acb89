"""Quantiles of a measurement."""

from __future__ import annotations

import pytest

from loadtest.simulator.measurement import Measurement


def test_inter_token_latencies_are_weighted_by_tokens() -> None:
    measured = Measurement(inter_token=[(0.1, 9), (1.0, 1)])
    assert (measured.inter_token_quantile(0.5), measured.inter_token_quantile(0.99)) == (0.1, 1.0)
    assert measured.mean_inter_token == pytest.approx(0.19)
