"""Admission: sessions that found no room wait, by rank and then in the order in which they came, for a bounded time.

What room is, is the engine's to say. The first in line is asked for alone, so that one that needs much is not overtaken
by those that need little. Who would wait too long is told so at once, by what the sessions that run and those before it
are expected to take (forecast.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from verifier.engine.interface import Overloaded

T = TypeVar("T")
LEAST_RETRY, LONGEST_RETRY = 1.0, 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Waiting(Generic[T]):
    """One in line: higher ranks go first, since when it waits."""

    session: T
    rank: int
    since: float


class AdmissionQueue(Generic[T]):
    """Sessions by key, at most `places` of them, none longer than `longest` seconds."""

    def __init__(self, places: int, longest: float) -> None:
        self._places = places
        self._longest = longest
        self._waiting: dict[int, Waiting[T]] = {}  # in the order of the line
        self._turned_away: list[tuple[int, Overloaded]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def before(self, rank: int) -> list[T]:
        """Who is served before one of this rank that comes now."""
        return [item.session for item in self._waiting.values() if item.rank >= rank]

    def enter(self, key: int, session: T, rank: int, now: float, wait: float) -> int:
        """Get in line, and how many are before. `wait` is how long it will take, as far as can be told.

        Where all places are taken, the last one of lower rank is turned away for it. Raises Overloaded when there is
        none, or when the wait would be too long.
        """
        if wait > self._longest:
            raise Overloaded(f"it would take about {wait:.0f} s until there is room", retry_after(wait - self._longest))
        if len(self._waiting) >= self._places:
            last = next(reversed(self._waiting), None)
            if last is None or self._waiting[last].rank >= rank:
                raise Overloaded(f"{len(self._waiting)} sessions are waiting already", retry_after(wait))
            self._turn_away(last, "others went first")
        ahead = len(self.before(rank))
        behind = list(self._waiting.items())[ahead:]
        for other, _ in behind:
            del self._waiting[other]
        self._waiting |= {key: Waiting(session, rank, now), **dict(behind)}
        return ahead

    def first(self) -> tuple[int, T] | None:
        return next(((key, item.session) for key, item in self._waiting.items()), None)

    def get(self, key: int) -> T | None:
        return item.session if (item := self._waiting.get(key)) else None

    def leave(self, key: int) -> bool:
        """Whether it was waiting."""
        return self._waiting.pop(key, None) is not None

    @property
    def until(self) -> float | None:
        """When the next one has waited too long."""
        return min((item.since + self._longest for item in self._waiting.values()), default=None)

    def turned_away(self, now: float) -> list[tuple[int, Overloaded]]:
        """Who has left the line since the last call because of others or of the time, and what to tell them."""
        for key in [key for key, item in self._waiting.items() if now - item.since >= self._longest]:
            self._turn_away(key, f"no room in {self._longest:g} s")
        gone, self._turned_away = self._turned_away, []
        return gone

    def _turn_away(self, key: int, why: str) -> None:
        del self._waiting[key]
        self._turned_away.append((key, Overloaded(f"too much is asked for: {why}")))


def retry_after(seconds: float) -> float:
    """When it is worth coming again, in seconds, if there may be room in so many."""
    return min(LONGEST_RETRY, max(LEAST_RETRY, seconds))
