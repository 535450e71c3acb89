"""Cores in virtual time: runnable threads share them equally, as under a fair scheduler.

A machine without a number of cores has one for every thread. A thread does one thing after the other.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from math import inf

from loadtest.seed.clock import Clock


class Machine:
    """Spends seconds of CPU time, for as many at once as ask. `others` are threads that always want a core, too."""

    def __init__(self, clock: Clock, cores: float = inf, others: float = 0.0) -> None:
        self._clock, self._cores, self._others = clock, cores, others
        self._order = count()
        self._running: list[tuple[float, int, Callable[[], None]]] = []  # by the service at which each is done
        self._service = 0.0  # seconds that whoever ran from the first has had
        self._at = clock.now
        self._version = 0

    def compute(self, seconds: float, done: Callable[[], None]) -> None:
        self._advance()
        heapq.heappush(self._running, (self._service + seconds, next(self._order), done))
        self._wake()

    @property
    def _rate(self) -> float:
        return min(1.0, self._cores / (max(1, len(self._running)) + self._others))

    def _advance(self) -> None:
        self._service += (self._clock.now - self._at) * self._rate
        self._at = self._clock.now

    def _wake(self) -> None:
        self._version += 1
        version = self._version
        if self._running:
            left = max(0.0, self._running[0][0] - self._service)
            self._clock.after(left / self._rate, lambda: self._due(version))

    def _due(self, version: int) -> None:
        if version != self._version:
            return  # somebody came meanwhile, and it was reckoned anew
        self._advance()
        service, _, done = heapq.heappop(self._running)
        self._service = max(self._service, service)
        self._wake()
        done()


class Thread:
    """What one thread is given to do, in order; `busy` is the CPU time that it had, `waited` what each piece waited."""

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self.busy = 0.0
        self.waited: list[float] = []
        self._clock, self._machine = clock, machine
        self._left: deque[tuple[float, float, Callable[[], None]]] = deque()
        self._working = False

    def do(self, seconds: float, then: Callable[[], None]) -> None:
        """Spend so long on it as soon as what came before is done."""
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
        self.busy += seconds

        def done() -> None:
            then()
            self._next()

        self._machine.compute(seconds, done)
