"""Token buckets for limits per minute: a bucket refills continuously and holds at most one minute's worth.

RateStore is the interface; MemoryRateStore keeps the buckets of one gateway, shared_rates.py those of all replicas. A
bucket may go below zero when a request used more tokens than were predicted; nothing is granted until it has refilled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

MINUTE = 60.0
MAX_BUCKETS = 65536  # kept in memory; full ones are evicted first, which loses no information


@dataclass(frozen=True, slots=True)
class Use:
    """`amount` units of the bucket of this name, which holds `per_minute` when full."""

    bucket: str
    amount: int
    per_minute: int


@dataclass(frozen=True, slots=True)
class TakeResult:
    """`remaining` units are left; it is full after `reset` seconds. If not `granted`, retry in `wait` seconds."""

    granted: bool
    remaining: int
    reset: float
    wait: float = 0.0


class RateStore(Protocol):
    """Buckets by name. Those of one call belong to one key, and each is named once in `takes`."""

    async def take(self, takes: Sequence[Use], charges: Sequence[Use] = ()) -> list[TakeResult]:
        """Charge first, as `charge` does; then take all of `takes`, or nothing. One result for each of `takes`.

        A bucket that has enough says `granted` even where another has not. An amount of 0 is granted by a bucket that
        is not below zero.
        """
        ...

    def charge(self, charges: Sequence[Use]) -> None:
        """Take units, below zero if necessary; a negative amount is given back. Does not block."""
        ...


def take_result(level: float, amount: int, per_minute: int, granted: bool) -> TakeResult:
    """The result for a bucket that is at `level` afterwards."""
    reset = (per_minute - level) * MINUTE / per_minute
    wait = 0.0 if granted else (amount - level) * MINUTE / per_minute
    return TakeResult(granted, max(0, int(level)), reset, wait)


class MemoryRateStore:
    """The buckets of one process. `clock` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float, int]] = {}  # level, time, units per minute

    async def take(self, takes: Sequence[Use], charges: Sequence[Use] = ()) -> list[TakeResult]:
        self.charge(charges)
        levels = [self._level(use.bucket, use.per_minute) for use in takes]
        granted = [use.amount <= level for use, level in zip(takes, levels, strict=True)]
        if all(granted):
            levels = [level - use.amount for use, level in zip(takes, levels, strict=True)]
        results: list[TakeResult] = []
        for use, level, enough in zip(takes, levels, granted, strict=True):
            self._set(use.bucket, level, use.per_minute)
            results.append(take_result(level, use.amount, use.per_minute, enough))
        return results

    def charge(self, charges: Sequence[Use]) -> None:
        for use in charges:
            level = self._level(use.bucket, use.per_minute) - use.amount
            self._set(use.bucket, min(use.per_minute, level), use.per_minute)

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
