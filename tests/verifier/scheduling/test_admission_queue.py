"""The line of those who wait for admission, and what is foretold of it."""

from __future__ import annotations

import random

import pytest

from verifier.engine.interface import Overloaded
from verifier.scheduling.admission_queue import AdmissionQueue, clamp_retry_after
from verifier.scheduling.forecast import Forecast, queue_wait


def test_first_come_first_in_line_and_nobody_beyond_the_last_place() -> None:
    admission: AdmissionQueue[str] = AdmissionQueue(2, max_wait=30)
    assert admission.enqueue(7, "long", 0, 0.0, 1.0) == 0
    assert admission.enqueue(3, "short", 0, 1.0, 1.0) == 1
    with pytest.raises(Overloaded, match="2 sessions are waiting"):
        admission.enqueue(9, "late", 0, 2.0, 1.0)
    assert admission.peek() == (7, "long")
    assert admission.remove(7)
    assert not admission.remove(7)
    assert admission.peek() == (3, "short")
    assert admission.pop_rejected(30.9) == []
    assert admission.next_deadline == 31
    assert [key for key, _ in admission.pop_rejected(31.0)] == [3]
    assert admission.next_deadline is None


def test_ranks_stand_in_order_whoever_comes_when() -> None:
    dice = random.Random(4)
    admission: AdmissionQueue[tuple[int, int]] = AdmissionQueue(200, max_wait=30)
    came = [(-dice.randrange(4), number) for number in range(200)]
    for rank, number in came:
        ahead = len([other for other in came[:number] if other <= (rank, number)])
        assert admission.enqueue(number, (rank, number), -rank, 0.0, 0.0) == ahead
    served = []
    while first := admission.peek():
        served.append(first[1])
        admission.remove(first[0])
    assert served == sorted(came)


def test_a_long_wait_is_told_and_when_it_will_be_shorter() -> None:
    admission: AdmissionQueue[str] = AdmissionQueue(2, max_wait=30)
    with pytest.raises(Overloaded, match="about 42 s") as told:
        admission.enqueue(1, "a", 0, 0.0, 42.0)
    assert told.value.retry_after == 12
    assert len(admission) == 0


@pytest.mark.parametrize(("seconds", "advice"), [(0, 1), (0.01, 1), (20, 20), (500, 60)])
def test_that_advice_is_bounded(seconds: float, advice: float) -> None:
    assert clamp_retry_after(seconds) == advice


def test_a_wait_is_the_line_played_forward() -> None:
    assert queue_wait([], []) == 0
    assert queue_wait([5, 2, 9], []) == 2
    assert queue_wait([5, 2, 9], [1]) == 3, "the place that was free at 2 is again at 3"
    assert queue_wait([5, 2, 9], [4, 4]) == 6
    assert queue_wait([10], [7, 7, 7]) == 31


def test_what_is_expected_follows_what_was_served() -> None:
    forecast = Forecast()
    assert forecast.remaining_seconds(100) == 0, "nothing is known yet"
    for _ in range(200):
        forecast.record_finished(40)
        forecast.record_step(sessions=8, tokens=16, seconds=0.1)  # two tokens a session
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.05)
    assert forecast.remaining_seconds(10) == pytest.approx(10 * 0.05), "its limit leaves no more"
    for _ in range(400):
        forecast.record_step(sessions=8, tokens=8, seconds=0.3)
    assert forecast.remaining_seconds(1000) == pytest.approx(40 * 0.3, rel=0.01)
