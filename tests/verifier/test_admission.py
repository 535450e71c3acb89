"""The line of those who wait for room."""

from __future__ import annotations

import pytest

from verifier.admission import WaitingRoom
from verifier.engine import Overloaded
from verifier.policy import retry_after


def test_first_come_first_in_line_and_nobody_beyond_the_last_place() -> None:
    room: WaitingRoom[str] = WaitingRoom(2)
    room.enter(7, "long")
    room.enter(3, "short")
    with pytest.raises(Overloaded, match="2 sessions are waiting"):
        room.enter(9, "late")
    assert room.first() == (7, "long")
    assert room.leave(7)
    assert not room.leave(7)
    assert room.first() == (3, "short")


def test_the_advice_when_to_come_again_follows_how_fast_places_become_free() -> None:
    room: WaitingRoom[str] = WaitingRoom(1)
    room.session_ended(0.0)
    room.enter(1, "a")
    with pytest.raises(Overloaded) as unknown:
        room.enter(2, "b")
    assert unknown.value.retry_after == 1
    for end in range(10):
        room.session_ended(100.0 + 4 * end)
    with pytest.raises(Overloaded) as known:
        room.enter(2, "b")
    assert known.value.retry_after == pytest.approx(8)


@pytest.mark.parametrize(("waiting", "interval", "seconds"), [(0, None, 1), (0, 0.01, 1), (9, 2.0, 20), (500, 2.0, 60)])
def test_that_advice_is_bounded(waiting: int, interval: float | None, seconds: float) -> None:
    assert retry_after(waiting, interval) == seconds
