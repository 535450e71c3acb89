"""Order, bounds and deadlines of the admission queue."""

from __future__ import annotations

import random

import pytest

from verifier.engine.interface import Overloaded
from verifier.scheduling.admission_queue import AdmissionQueue, clamp_retry_after


def test_first_come_first_served_and_bounded() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue(2, max_wait=30)
    assert queue.enqueue(7, "long", 0, 0.0, 1.0) == 0
    assert queue.enqueue(3, "short", 0, 1.0, 1.0) == 1
    with pytest.raises(Overloaded, match="2 sessions are waiting"):
        queue.enqueue(9, "late", 0, 2.0, 1.0)
    assert queue.peek() == (7, "long")
    assert queue.remove(7)
    assert not queue.remove(7)
    assert queue.peek() == (3, "short")
    assert queue.pop_rejected(30.9) == []
    assert queue.next_deadline == 31
    assert [key for key, _, _ in queue.pop_rejected(31.0)] == [3]
    assert queue.next_deadline is None


def test_higher_ranks_are_ahead_whatever_the_order_of_arrival() -> None:
    dice = random.Random(4)
    queue: AdmissionQueue[tuple[int, int]] = AdmissionQueue(200, max_wait=30)
    came = [(-dice.randrange(4), number) for number in range(200)]
    for rank, number in came:
        ahead = len([other for other in came[:number] if other <= (rank, number)])
        assert queue.enqueue(number, (rank, number), -rank, 0.0, 0.0) == ahead
    served = []
    while first := queue.peek():
        served.append(first[1])
        queue.remove(first[0])
    assert served == sorted(came)


def test_too_long_an_expected_wait_is_rejected_with_retry_after() -> None:
    queue: AdmissionQueue[str] = AdmissionQueue(2, max_wait=30)
    with pytest.raises(Overloaded, match="about 42 s") as rejected:
        queue.enqueue(1, "a", 0, 0.0, 42.0)
    assert rejected.value.retry_after == 12
    assert len(queue) == 0


@pytest.mark.parametrize(("seconds", "expected"), [(0, 1), (0.01, 1), (20, 20), (500, 60)])
def test_retry_after_is_bounded(seconds: float, expected: float) -> None:
    assert clamp_retry_after(seconds) == expected
