"""Virtual time: callbacks run in the order of their due times, and time passes only between them."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """An event queue. Callbacks due at the same time run in the order in which they were scheduled."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def call_at(self, time: float, callback: Callable[[], None]) -> None:
        """Schedules `callback` for `time` in seconds; a time that has passed means now."""
        heapq.heappush(self._due, (max(time, self.now), next(self._order), callback))

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self.call_at(self.now + seconds, callback)

    def run(self, until: Callable[[], bool]) -> None:
        """Runs callbacks until `until()`, checked after each one, is true or none is left."""
        while self._due and not until():
            self.now, _, callback = heapq.heappop(self._due)
            callback()
