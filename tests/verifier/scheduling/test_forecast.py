"""Expected durations and waits."""

from __future__ import annotations

import pytest

from verifier.scheduling.forecast import Forecast, queue_wait


def test_the_wait_simulates_the_queue() -> None:
    assert queue_wait([], []) == 0
    assert queue_wait([5, 2, 9], []) == 2
    assert queue_wait([5, 2, 9], [1]) == 3, "the slot that is free at 2 is free again at 3"
    assert queue_wait([5, 2, 9], [4, 4]) == 6
    assert queue_wait([10], [7, 7, 7]) == 31


def test_expected_seconds_follow_the_answers_served() -> None:
    forecast = Forecast()
    assert forecast.remaining_seconds(100) == 0, "nothing is known yet"
    for _ in range(200):
        forecast.record_finished(40)
        forecast.record_step(sessions=8, tokens=16, seconds=0.1)  # two tokens per session
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.05)
    assert forecast.remaining_seconds(10) == pytest.approx(10 * 0.05), "its limit leaves no more"
    for _ in range(400):
        forecast.record_step(sessions=8, tokens=8, seconds=0.3)
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.3, rel=0.01)
