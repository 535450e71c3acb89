"""Ratios with confidence intervals."""

from __future__ import annotations

import pytest

from loadtest.statistics import ratio


def test_a_ratio_is_paired_and_has_an_interval() -> None:
    found = ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    assert (found.value, found.low, found.high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))
    wide = ratio([2.0, 4.4, 7.6], [1.0, 2.0, 4.0])
    assert wide.low < wide.value < wide.high
