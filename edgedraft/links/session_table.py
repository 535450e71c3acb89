"""Session numbers of one link and who handles each session's messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

H = TypeVar("H")


class SessionTable(Generic[H]):
    """The open sessions of one link, each with its handler. Numbers count up from 1 and are never used twice."""

    def __init__(self) -> None:
        self._last = 0
        self._handlers: dict[int, H] = {}

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[H]:
        return iter(self._handlers.values())

    def add(self, handler: H) -> int:
        """Returns the new session's number."""
        self._last += 1
        self._handlers[self._last] = handler
        return self._last

    def find(self, number: int) -> H | None:
        """None for a session that has ended. Raises KeyError for a number that was never assigned."""
        if number > self._last:
            raise KeyError(number)
        return self._handlers.get(number)

    def remove(self, number: int) -> bool:
        """Returns whether the session was open."""
        return self._handlers.pop(number, None) is not None

    def clear(self) -> list[H]:
        """Remove all sessions; returns their handlers."""
        handlers = list(self._handlers.values())
        self._handlers.clear()
        return handlers
