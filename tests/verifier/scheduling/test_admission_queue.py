"""The line of those who wait for room, and what is foretold of it."""

from __future__ import annotations

import random

import pytest

from verifier.engine.interface import Overloaded
from verifier.scheduling.admission_queue import AdmissionQueue, retry_after
from verifier.scheduling.forecast import Forecast, wait


def test_first_come_first_in_line_and_nobody_beyond_the_last_place() -> None:
    room: AdmissionQueue[str] = AdmissionQueue(2, longest=30)
    assert room.enter(7, "long", 0, 0.0, 1.0) == 0
    assert room.enter(3, "short", 0, 1.0, 1.0) == 1
    with pytest.raises(Overloaded, match="2 sessions are waiting"):
        room.enter(9, "late", 0, 2.0, 1.0)
    assert room.first() == (7, "long")
    assert room.leave(7)
    assert not room.leave(7)
    assert room.first() == (3, "short")
    assert room.turned_away(30.9) == []
    assert room.until == 31
    assert [key for key, _ in room.turned_away(31.0)] == [3]
    assert room.until is None


def test_ranks_stand_in_order_whoever_comes_when() -> None:
    dice = random.Random(4)
    room: AdmissionQueue[tuple[int, int]] = AdmissionQueue(200, longest=30)
    came = [(-dice.randrange(4), number) for number in range(200)]
    for rank, number in came:
        ahead = len([other for other in came[:number] if other <= (rank, number)])
        assert room.enter(number, (rank, number), -rank, 0.0, 0.0) == ahead
    served = []
    while first := room.first():
        served.append(first[1])
        room.leave(first[0])
    assert served == sorted(came)


def test_a_long_wait_is_told_and_when_it_will_be_shorter() -> None:
    room: AdmissionQueue[str] = AdmissionQueue(2, longest=30)
    with pytest.raises(Overloaded, match="about 42 s") as told:
        room.enter(1, "a", 0, 0.0, 42.0)
    assert told.value.retry_after == 12
    assert len(room) == 0


@pytest.mark.parametrize(("seconds", "advice"), [(0, 1), (0.01, 1), (20, 20), (500, 60)])
def test_that_advice_is_bounded(seconds: float, advice: float) -> None:
    assert retry_after(seconds) == advice


def test_a_wait_is_the_line_played_forward() -> None:
    assert wait([], []) == 0
    assert wait([5, 2, 9], []) == 2
    assert wait([5, 2, 9], [1]) == 3, "the place that was free at 2 is again at 3"
    assert wait([5, 2, 9], [4, 4]) == 6
    assert wait([10], [7, 7, 7]) == 31


def test_what_is_expected_follows_what_was_served() -> None:
    forecast = Forecast()
    assert forecast.takes(100) == 0, "nothing is known yet"
    for _ in range(200):
        forecast.ended(40)
        forecast.stepped(sessions=8, tokens=16, seconds=0.1)  # two tokens a session
    assert forecast.takes(1000) == pytest.approx(40 * 0.05)
    assert forecast.takes(10) == pytest.approx(10 * 0.05), "its limit leaves no more"
    for _ in range(400):
        forecast.stepped(sessions=8, tokens=8, seconds=0.3)
    assert forecast.takes(1000) == pytest.approx(40 * 0.3, rel=0.01)
