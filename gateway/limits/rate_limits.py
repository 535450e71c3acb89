"""Token buckets: so much a minute, all of it at once after a rest.

RateStore is what a shared store would have to do for several gateways to count together; MemoryRateStore counts for this
one. A bucket may be taken below zero when a request turns out larger than predicted; then nobody gets anything from it
until the debt is refilled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MINUTE = 60.0
MAX_BUCKETS = 65536  # that are remembered; full ones are forgotten first, and lose nothing by it


@dataclass(frozen=True, slots=True)
class TakeResult:
    """`remaining` is left for now; in `reset` seconds all is there again. What was not `granted` may be in `wait`."""

    granted: bool
    remaining: int
    reset: float
    wait: float = 0.0


class RateStore(Protocol):
    """Buckets by name, of `per_minute` units each."""

    async def take(self, bucket: str, amount: int, per_minute: int) -> TakeResult:
        """All of `amount`, or nothing."""
        ...

    def give_back(self, bucket: str, amount: int, per_minute: int) -> None:
        """Put back what was taken too much; a negative amount takes more, below zero if need be. Does not wait."""
        ...


class MemoryRateStore:
    """The buckets of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float, int]] = {}  # level, when, per minute

    async def take(self, bucket: str, amount: int, per_minute: int) -> TakeResult:
        level = self._level(bucket, per_minute)
        granted = amount <= level
        level -= amount if granted else 0
        self._set(bucket, level, per_minute)
        reset = (per_minute - level) * MINUTE / per_minute
        wait = 0.0 if granted else (amount - level) * MINUTE / per_minute
        return TakeResult(granted, max(0, int(level)), reset, wait)

    def give_back(self, bucket: str, amount: int, per_minute: int) -> None:
        self._set(bucket, min(per_minute, self._level(bucket, per_minute) + amount), per_minute)

    def _level(self, bucket: str, per_minute: int) -> float:
        level, at, before = self._buckets.get(bucket, (per_minute, self._clock(), per_minute))
        # A limit that was changed leaves what has been used used.
        return min(per_minute, level + per_minute - before + (self._clock() - at) * per_minute / MINUTE)

    def _set(self, bucket: str, level: float, per_minute: int) -> None:
        if bucket not in self._buckets and len(self._buckets) >= MAX_BUCKETS:
            self._evict()
        self._buckets[bucket] = level, self._clock(), per_minute

    def _evict(self) -> None:
        full = [name for name, (_, _, limit) in self._buckets.items() if self._level(name, limit) >= limit]
        for name in full or list(self._buckets)[: MAX_BUCKETS // 2]:
            del self._buckets[name]
