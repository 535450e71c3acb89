"""One thread in virtual time, as a gateway's event loop: work is done in order, each piece after the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from loadtest.simulator.clock import Clock


class CpuThread:
    """`busy` is the CPU time spent, `waits` are the pieces' queueing times, `wakes` counts starts from idle."""

    def __init__(self, clock: Clock, speed: float = 1.0, wake_seconds: float = 0.0) -> None:
        """`speed` is the share of a core that the thread gets, `wake_seconds` the CPU time of a start from idle."""
        self.busy = 0.0
        self.wakes = 0
        self.waits: list[float] = []
        self._clock, self._speed, self._wake_seconds = clock, speed, wake_seconds
        self._queue: deque[tuple[float, float, Callable[[], None]]] = deque()
        self._working = False

    def run(self, seconds: float, then: Callable[[], None]) -> None:
        """Queues work of so much CPU time; `then` is called when it is done."""
        if not self._working:
            self.wakes += 1
            seconds += self._wake_seconds
        self.busy += seconds
        self._queue.append((self._clock.now, seconds, then))
        if not self._working:
            self._next()

    def _next(self) -> None:
        if not self._queue:
            self._working = False
            return
        self._working = True
        queued_at, seconds, then = self._queue.popleft()
        self.waits.append(self._clock.now - queued_at)

        def done() -> None:
            then()
            self._next()

        self._clock.call_later(seconds / self._speed, done)
