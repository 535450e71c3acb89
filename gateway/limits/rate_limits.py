"""Token buckets for limits per minute: a bucket refills continuously and holds at most one minute's worth.

RateStore is the interface; MemoryRateStore keeps the buckets of one gateway, shared_rates.py those of all replicas. A
bucket may go below zero when a request used more tokens than were predicted; nothing is granted until it has refilled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MINUTE = 60.0
MAX_BUCKETS = 65536  # kept in memory; full ones are evicted first, which loses no information


@dataclass(frozen=True, slots=True)
class TakeResult:
    """`remaining` units are left; it is full after `reset` seconds. If not `granted`, retry in `wait` seconds."""

    granted: bool
    remaining: int
    reset: float
    wait: float = 0.0


class RateStore(Protocol):
    """Buckets by name; each holds `per_minute` units when full."""

    async def take(self, bucket: str, amount: int, per_minute: int) -> TakeResult:
        """Take all of `amount`, or nothing."""
        ...

    def give_back(self, bucket: str, amount: int, per_minute: int) -> None:
        """Return units; a negative amount takes more, below zero if necessary. Does not block."""
        ...


class MemoryRateStore:
    """The buckets of one process. `clock` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float, int]] = {}  # level, time, units per minute

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
        # When the limit was changed, the units used so far stay used.
        return min(per_minute, level + per_minute - before + (self._clock() - at) * per_minute / MINUTE)

    def _set(self, bucket: str, level: float, per_minute: int) -> None:
        if bucket not in self._buckets and len(self._buckets) >= MAX_BUCKETS:
            self._evict()
        self._buckets[bucket] = level, self._clock(), per_minute

    def _evict(self) -> None:
        full = [name for name, (_, _, limit) in self._buckets.items() if self._level(name, limit) >= limit]
        for name in full or list(self._buckets)[: MAX_BUCKETS // 2]:
            del self._buckets[name]
