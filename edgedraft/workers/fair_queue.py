"""A queue of jobs that serves shares in proportion to their weights, by the seconds that their jobs have really taken.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) over measured service: every share has a virtual time, which
grows by seconds / weight of each of its jobs. The share that is furthest behind goes next. A share that was idle starts
at the virtual time of the others, so that it can save nothing up. What a job will take is known afterwards only: when
it starts, the share's recent mean is charged, and the difference when it ends.

Costly jobs, by that mean, have all workers but one together, whichever shares they belong to: newcomers, and whoever
sends cheap ones, never wait for one of them to end.

Pure data, without clock or lock. Putting and taking a job take a time that grows with the logarithm of the shares.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

J = TypeVar("J")

COSTLY_SECONDS = 0.05  # jobs of a share that take so long on average leave one worker to others
_REMEMBERED_SHARES = 4096  # idle shares whose virtual times are kept


_Turn = tuple[float, int, Any]  # a share's virtual time when it was queued, a number that tells turns apart, the share


@dataclass(slots=True)
class _Share(Generic[J]):
    name: str
    virtual: float
    weight: float = 1.0
    mean: float = 0.0  # seconds of a job, recent ones count more
    running: int = 0
    waiting: deque[J] = field(default_factory=deque)
    turn: _Turn | None = None  # the one that counts

    @property
    def is_costly(self) -> bool:
        return self.mean >= COSTLY_SECONDS


class FairQueue(Generic[J]):
    """Jobs of shares that wait for one of `workers` servers; within a share in order of arrival."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._shares: dict[str, _Share[J]] = {}
        self._virtual = 0.0  # of the job that was started last
        self._waiting = 0
        self._running = 0
        self._costly = 0  # of those that run
        # By whether the share is costly. A share with jobs has a turn in one of them, no later than its virtual time;
        # turns that no longer count are dropped when they come up.
        self._turns: dict[bool, list[_Turn]] = {False: [], True: []}
        self._numbers = count()

    def __len__(self) -> int:
        return self._waiting

    def put(self, share: str, job: J, weight: float = 1.0) -> None:
        """Add a job. The weight is that of the share from now on."""
        entry = self._shares.get(share)
        if entry is None:
            self._forget_idle()
            entry = self._shares[share] = _Share(share, self._virtual)
        if not entry.waiting and not entry.running:
            entry.virtual = max(entry.virtual, self._virtual)
        entry.weight = weight
        entry.waiting.append(job)
        self._waiting += 1
        self._queue(entry)

    def remove(self, share: str, job: J) -> bool:
        """Returns whether the job was waiting."""
        entry = self._shares.get(share)
        if entry is None or job not in entry.waiting:
            return False
        entry.waiting.remove(job)
        self._waiting -= 1
        return True

    def take(self) -> tuple[str, J, float] | None:
        """Returns the next job with its share, and the seconds charged for it, which `finish` takes.

        None if no job may start: none waits, or those that wait are costly and the last worker is kept for others.
        """
        if self._running >= self._workers:
            return None
        turns = [self._first(False)]
        if self._costly < max(1, self._workers - 1):
            turns.append(self._first(True))
        turn = min((turn for turn in turns if turn), default=None)
        if turn is None:
            return None
        entry: _Share[J] = turn[2]
        heappop(self._turns[entry.is_costly])
        entry.turn = None
        self._virtual, charged = entry.virtual, entry.mean
        entry.virtual += charged / entry.weight
        entry.running += 1
        self._running += 1
        self._costly += charged >= COSTLY_SECONDS
        job = entry.waiting.popleft()
        self._waiting -= 1
        self._queue(entry)
        return entry.name, job, charged

    def finish(self, share: str, charged: float, seconds: float) -> None:
        """A job that `take` returned has ended after `seconds` of service."""
        entry = self._shares[share]
        was_costly = entry.is_costly
        entry.running -= 1
        self._running -= 1
        self._costly -= charged >= COSTLY_SECONDS
        entry.virtual += (seconds - charged) / entry.weight
        entry.mean += (seconds - entry.mean) / 8 if entry.mean else seconds
        if entry.is_costly != was_costly:
            entry.turn = None
        self._queue(entry)

    def waiting(self, share: str) -> int:
        """How many jobs of the share wait."""
        return len(entry.waiting) if (entry := self._shares.get(share)) else 0

    def clear(self) -> list[J]:
        """Removes and returns all jobs that wait."""
        jobs = [job for entry in self._shares.values() for job in entry.waiting]
        for entry in self._shares.values():
            entry.waiting.clear()
        self._waiting = 0
        return jobs

    def _queue(self, entry: _Share[J]) -> None:
        """Give a share with jobs a turn, unless it has one that comes up in time."""
        if not entry.waiting or (entry.turn and entry.turn[0] <= entry.virtual):
            return
        turns = self._turns[entry.is_costly]
        if len(turns) > 2 * len(self._shares):
            turns[:] = [turn for turn in turns if turn[2].turn is turn]
            heapify(turns)
        entry.turn = (entry.virtual, next(self._numbers), entry)
        heappush(turns, entry.turn)

    def _first(self, costly: bool) -> _Turn | None:
        """The turn of the share that is furthest behind."""
        turns = self._turns[costly]
        while turns:
            turn = turns[0]
            entry: _Share[J] = turn[2]
            if entry.turn is turn and entry.waiting and turn[0] >= entry.virtual:
                return turn
            heappop(turns)
            if entry.turn is turn:  # its jobs were removed, or it has run ahead since
                entry.turn = None
                self._queue(entry)
        return None

    def _forget_idle(self) -> None:
        """Shares that were idle for long have nothing to be remembered for: their virtual time lies in the past."""
        if len(self._shares) < _REMEMBERED_SHARES:
            return
        idle = [name for name, entry in self._shares.items() if not entry.waiting and not entry.running]
        for name in idle[: _REMEMBERED_SHARES // 2]:
            self._shares.pop(name).turn = None
