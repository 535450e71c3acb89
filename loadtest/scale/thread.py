"""One thread in virtual time, as a gateway is one: what it is given is done in order, each when the last is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from loadtest.seed.clock import Clock


class Thread:
    """`busy` is the CPU time that it was given to spend, `waited` what each piece waited, `wakes` counts beginnings.

    `speed` is what share of a core it gets, `wake` the CPU time of beginning after a rest.
    """

    def __init__(self, clock: Clock, speed: float = 1.0, wake: float = 0.0) -> None:
        self.busy = 0.0
        self.wakes = 0
        self.waited: list[float] = []
        self._clock, self._speed, self._wake = clock, speed, wake
        self._left: deque[tuple[float, float, Callable[[], None]]] = deque()
        self._working = False

    def do(self, seconds: float, then: Callable[[], None]) -> None:
        """Spend so much CPU time on it as soon as what came before is done."""
        if not self._working:
            self.wakes += 1
            seconds += self._wake
        self.busy += seconds
        self._left.append((self._clock.now, seconds, then))
        if not self._working:
            self._next()

    def _next(self) -> None:
        if not self._left:
            self._working = False
            return
        self._working = True
        came, seconds, then = self._left.popleft()
        self.waited.append(self._clock.now - came)

        def done() -> None:
            then()
            self._next()

        self._clock.after(seconds / self._speed, done)
