"""Admission: sessions that found no room wait in the order in which they came; how many, and when to ask again.

What room is, is the engine's to say. The first in line is asked for alone, so that one that needs much is not overtaken
by those that need little.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from verifier.engine import Overloaded
from verifier.policy import retry_after, smoothed

T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Sessions by key, at most `places` of them."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._waiting: dict[int, T] = {}
        self._last_end: float | None = None
        self._interval: float | None = None  # between two sessions that ended while others waited, a running mean

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, key: int, session: T) -> None:
        """Raises Overloaded when all places are taken."""
        if len(self._waiting) >= self._places:
            seconds = retry_after(len(self._waiting), self._interval)
            raise Overloaded(f"{len(self._waiting)} sessions are waiting already", seconds)
        self._waiting[key] = session

    def first(self) -> tuple[int, T] | None:
        return next(iter(self._waiting.items()), None)

    def get(self, key: int) -> T | None:
        return self._waiting.get(key)

    def leave(self, key: int) -> bool:
        """Whether it was waiting."""
        return self._waiting.pop(key, None) is not None

    def session_ended(self, now: float) -> None:
        """Somebody's place became free."""
        if not self._waiting:
            self._last_end = None
            return
        if self._last_end is not None:
            self._interval = smoothed(self._interval, now - self._last_end)
        self._last_end = now
