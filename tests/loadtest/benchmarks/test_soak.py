"""The memory growth that `bench soak` computes from its samples."""

from __future__ import annotations

import pytest

from loadtest.benchmarks.soak import Sample, growth

IDLE = Sample(0.0, 100.0, 10)


def test_a_process_that_grows_steadily_shows_its_slope() -> None:
    found = growth(IDLE, [Sample(at * 60.0, 200.0 + at, 20) for at in range(61)], Sample(3600.0, 250.0, 12))
    assert found["MiB_per_hour"] == pytest.approx(60.0)
    assert found["MiB_last"] - found["MiB_first"] == pytest.approx(45.0)
    assert (found["MiB_before"], found["MiB_after"]) == (100.0, 250.0)


def test_what_a_process_takes_while_it_warms_up_is_no_growth() -> None:
    found = growth(IDLE, [Sample(at * 60.0, 100.0 + min(at, 10) * 20, 20) for at in range(61)], IDLE)
    assert found["MiB_per_hour"] == pytest.approx(0.0)
    assert found["MiB_first"] == found["MiB_last"] == pytest.approx(300.0)


def test_what_fills_up_slowly_has_come_to_rest_in_the_last_half() -> None:
    found = growth(IDLE, [Sample(at * 60.0, 100.0 + min(at, 30), 20) for at in range(61)], IDLE)
    assert found["MiB_per_hour"] > 10
    assert found["late_MiB_per_hour"] == pytest.approx(0.0)
