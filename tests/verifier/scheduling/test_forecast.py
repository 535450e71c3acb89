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
        forecast.record_step(sessions=8, tokens=16, seconds=0.1, prompt_seconds=0.0)  # two tokens per session
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.05)
    assert forecast.remaining_seconds(10) == pytest.approx(10 * 0.05), "its limit leaves no more"
    for _ in range(400):
        forecast.record_step(sessions=8, tokens=8, seconds=0.3, prompt_seconds=0.0)
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.3, rel=0.01)


def test_a_second_is_worth_the_tokens_of_the_time_without_prompts() -> None:
    forecast = Forecast()
    assert forecast.time_value(8) == 0, "nothing is known yet"
    for _ in range(100):
        forecast.record_step(sessions=8, tokens=16, seconds=0.1, prompt_seconds=0.06)
    assert forecast.token_rate(8) == pytest.approx(160)
    assert forecast.time_value(8) == pytest.approx(400)
    forecast = Forecast()
    forecast.record_step(sessions=8, tokens=0, seconds=0.1, prompt_seconds=0.2)
    assert forecast.time_value(8) == 0, "only prompts were computed"
