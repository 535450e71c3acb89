"""The admission queue: sessions that the engine has no capacity for wait here, for a bounded time.

Higher ranks go first, equal ones in order of arrival. Only the head of the queue is offered to the engine, so a session
that needs much capacity is not overtaken by sessions that need little. A session whose expected wait (forecast.py) is
too long is rejected on arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from verifier.engine.interface import Overloaded

T = TypeVar("T")
MIN_RETRY_AFTER, MAX_RETRY_AFTER = 1.0, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class QueueEntry(Generic[T]):
    """A waiting session; entries of a higher `rank` are ahead of it."""

    session: T
    rank: int
    enqueued_at: float


class AdmissionQueue(Generic[T]):
    """At most `max_waiting` sessions by key, each for at most `max_wait` seconds."""

    def __init__(self, max_waiting: int, max_wait: float) -> None:
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._entries: dict[int, QueueEntry[T]] = {}  # in queue order
        self._rejected: list[tuple[int, Overloaded]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def ahead_of(self, rank: int) -> list[T]:
        """The sessions ahead of one of `rank` that would arrive now."""
        return [entry.session for entry in self._entries.values() if entry.rank >= rank]

    def enqueue(self, key: int, session: T, rank: int, now: float, expected_wait: float) -> int:
        """Add a session and return how many are ahead of it.

        If the queue is full, the last session of a lower rank is rejected in its favour. Raises Overloaded if there is
        no such session, or if `expected_wait` exceeds the maximum.
        """
        if expected_wait > self._max_wait:
            raise Overloaded(
                f"it would take about {expected_wait:.0f} s until there is room",
                clamp_retry_after(expected_wait - self._max_wait),
            )
        if len(self._entries) >= self._max_waiting:
            last = next(reversed(self._entries), None)
            if last is None or self._entries[last].rank >= rank:
                raise Overloaded(f"{len(self._entries)} sessions are waiting already", clamp_retry_after(expected_wait))
            self._reject(last, "others went first")
        ahead = len(self.ahead_of(rank))
        behind = list(self._entries.items())[ahead:]
        for other, _ in behind:
            del self._entries[other]
        self._entries |= {key: QueueEntry(session, rank, now), **dict(behind)}
        return ahead

    def peek(self) -> tuple[int, T] | None:
        """Key and session at the head of the queue."""
        return next(((key, entry.session) for key, entry in self._entries.items()), None)

    def get(self, key: int) -> T | None:
        return entry.session if (entry := self._entries.get(key)) else None

    def remove(self, key: int) -> bool:
        """Returns whether the session was waiting."""
        return self._entries.pop(key, None) is not None

    @property
    def next_deadline(self) -> float | None:
        """When the next session will have waited too long."""
        return min((entry.enqueued_at + self._max_wait for entry in self._entries.values()), default=None)

    def pop_rejected(self, now: float) -> list[tuple[int, Overloaded]]:
        """Sessions rejected since the last call, those included whose time has run out by `now`."""
        for key in [key for key, entry in self._entries.items() if now - entry.enqueued_at >= self._max_wait]:
            self._reject(key, f"no room in {self._max_wait:g} s")
        rejected, self._rejected = self._rejected, []
        return rejected

    def _reject(self, key: int, reason: str) -> None:
        del self._entries[key]
        self._rejected.append((key, Overloaded(f"too much is asked for: {reason}")))


def clamp_retry_after(seconds: float) -> float:
    """Seconds to report as Retry-After when capacity is expected in `seconds`."""
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, seconds))
