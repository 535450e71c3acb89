"""How long a session would wait for room: the work that runs and that is before it, predicted and played forward.

An answer is expected to come to what answers have come to here on the mean, however much of it there is already, or to
what its limit leaves; its tokens to come as they have come lately. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heapreplace

from verifier.scheduling.policy import smoothed

KEPT = 0.98  # of what earlier steps weigh, a step


class Forecast:
    """Running means of what has been served."""

    def __init__(self) -> None:
        self._length: float | None = None
        self._seconds = self._tokens = 0.0

    def ended(self, tokens: int) -> None:
        """An answer of so many tokens is whole."""
        self._length = smoothed(self._length, tokens)

    def stepped(self, sessions: int, tokens: int, seconds: float) -> None:
        """A step committed so many tokens of all the sessions that ran; prompts that went in are in its time."""
        self._seconds = KEPT * self._seconds + seconds
        self._tokens = KEPT * self._tokens + tokens / max(1, sessions)

    def takes(self, left: int) -> float:
        """Seconds that a session which may say `left` tokens more will run; 0 as long as nothing is known."""
        if self._length is None or not self._tokens:
            return 0.0
        return min(left, self._length) * self._seconds / self._tokens


def wait(running: Iterable[float], line: Iterable[float]) -> float:
    """Seconds until there is room behind a line: each in it takes the place that is free first, for its own seconds.

    `running` are the seconds that those who have places still need.
    """
    places = list(running)
    if not places:
        return 0.0
    heapify(places)
    for seconds in line:
        heapreplace(places, places[0] + seconds)
    return places[0]
