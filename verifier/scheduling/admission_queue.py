"""The admission queue: sessions that the engine has no capacity for wait here, for a bounded time.

Higher ranks go first; within a rank tenants and their keys take turns (fair_shares.py), and the sessions of a key keep
their order of arrival. Only the head of the queue is offered to the engine, so a session that needs much capacity is
not overtaken by sessions that need little. A session whose expected wait (forecast.py) is too long is rejected on
arrival.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from verifier.engine.interface import Overloaded
from verifier.scheduling.fair_shares import NO_SHARE, FairShares, Share, greediest

T = TypeVar("T")
MIN_RETRY_AFTER, MAX_RETRY_AFTER = 1.0, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class QueueEntry(Generic[T]):
    """A waiting session of `share` that may take `tokens`; entries of a higher `rank` are ahead of it."""

    session: T
    rank: int
    enqueued_at: float
    share: Share = NO_SHARE
    tokens: float = 0.0


class AdmissionQueue(Generic[T]):
    """At most `max_waiting` sessions by key, each for at most `max_wait` seconds."""

    def __init__(self, max_waiting: int, max_wait: float, shares: FairShares | None = None) -> None:
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._entries: dict[int, QueueEntry[T]] = {}  # in order of arrival
        self._shares = shares or FairShares()
        self._rejected: list[tuple[int, Overloaded, T]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def ahead_of(self, rank: int, share: Share = NO_SHARE, tokens: float = 0.0) -> list[T]:
        """The sessions ahead of one of these that would arrive now."""
        return [self._entries[key].session for key in self._keys_ahead_of(rank, share, tokens)]

    def enqueue(
        self,
        key: int,
        session: T,
        rank: int,
        now: float,
        expected_wait: float,
        share: Share = NO_SHARE,
        tokens: float = 0.0,
    ) -> int:
        """Add a session and return how many are ahead of it.

        If the queue is full, the last session of a lower rank is rejected in its favour, or else the last of the key
        that has the most waiting in this rank (`greediest`). Raises Overloaded if there is no such session, or if
        `expected_wait` exceeds the maximum.
        """
        if expected_wait > self._max_wait:
            raise Overloaded(
                f"it would take about {expected_wait:.0f} s until there is room",
                clamp_retry_after(expected_wait - self._max_wait),
            )
        if len(self._entries) >= self._max_waiting:
            last = self._displaced_by(rank, share)
            if last is None:
                raise Overloaded(f"{len(self._entries)} sessions are waiting already", clamp_retry_after(expected_wait))
            self._reject(last, "others went first")
        ahead = len(self._keys_ahead_of(rank, share, tokens))
        self._entries[key] = QueueEntry(session, rank, now, share, tokens)
        return ahead

    def ordered(self) -> Iterator[tuple[int, T]]:
        """Keys and sessions, from the head of the queue."""
        for rank in sorted({entry.rank for entry in self._entries.values()}, reverse=True):
            for key in self._order(rank):
                yield key, self._entries[key].session

    def peek(self) -> tuple[int, T] | None:
        """Key and session at the head of the queue."""
        return next(self.ordered(), None)

    def get(self, key: int) -> T | None:
        return entry.session if (entry := self._entries.get(key)) else None

    def remove(self, key: int) -> bool:
        """Returns whether the session was waiting."""
        return self._entries.pop(key, None) is not None

    @property
    def next_deadline(self) -> float | None:
        """When the next session will have waited too long."""
        return min((entry.enqueued_at + self._max_wait for entry in self._entries.values()), default=None)

    def pop_rejected(self, now: float) -> list[tuple[int, Overloaded, T]]:
        """Sessions rejected since the last call, those included whose time has run out by `now`."""
        for key in [key for key, entry in self._entries.items() if now - entry.enqueued_at >= self._max_wait]:
            self._reject(key, f"no room in {self._max_wait:g} s")
        rejected, self._rejected = self._rejected, []
        return rejected

    def _keys_ahead_of(self, rank: int, share: Share, tokens: float) -> list[int]:
        higher = [key for key, entry in self._entries.items() if entry.rank > rank]
        return higher + self._order(rank, (None, share, tokens))

    def _order(self, rank: int, *arriving: tuple[None, Share, float]) -> list[int]:
        """The keys of a rank from its head, up to the session that is arriving if one is."""
        waiting: list[tuple[int | None, Share, float]] = [
            (key, entry.share, entry.tokens) for key, entry in self._entries.items() if entry.rank == rank
        ]
        keys: list[int] = []
        for key in self._shares.order([*waiting, *arriving]):
            if key is None:
                break
            keys.append(key)
        return keys

    def _displaced_by(self, rank: int, share: Share) -> int | None:
        """The waiting session that makes room for a new one of this rank and share; None if there is none."""
        lowest = min((entry.rank for entry in self._entries.values()), default=rank)
        if lowest < rank:
            return self._order(lowest)[-1]
        same = {key: entry.share for key, entry in self._entries.items() if entry.rank == rank}
        loser = greediest(same.values(), share)
        return next((key for key in reversed(same) if same[key] == loser), None) if loser else None

    def _reject(self, key: int, reason: str) -> None:
        entry = self._entries.pop(key)
        self._rejected.append((key, Overloaded(f"too much is asked for: {reason}"), entry.session))


def clamp_retry_after(seconds: float) -> float:
    """Seconds to report as Retry-After when capacity is expected in `seconds`."""
    return min(MAX_RETRY_AFTER, max(MIN_RETRY_AFTER, seconds))
