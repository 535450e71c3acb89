"""Virtual time: what happens next happens at its time, and nothing takes any unless somebody says so."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Clock:
    """Calls things in the order of their times; those of the same time in the order in which they were asked for."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(time, self.now), next(self._order), do))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.at(self.now + seconds, do)

    def run(self, until: Callable[[], bool]) -> None:
        """Until `until` says so, asked after everything that happens, or nothing is left to happen."""
        while self._due and not until():
            self.now, _, do = heapq.heappop(self._due)
            do()
