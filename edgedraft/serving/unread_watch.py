"""Aborts a connection whose peer reads too little while the send buffer is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgedraft.serving import http_bounds as bounds


class UnreadWatch:
    """The timer of one connection, on its event loop: MIN_READ bytes in UNREAD_SECONDS (http_bounds.py)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, unsent: Callable[[], int], abort: Callable[[], None]) -> None:
        """`unsent` returns the bytes in the send buffer."""
        self._loop = loop
        self._unsent = unsent
        self._abort = abort
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The buffer is full."""
        if not self._timer:
            self._wait()

    def stop(self) -> None:
        """The peer has read most of it, or the connection is no longer this one's."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_later(bounds.UNREAD_SECONDS, self._check, self._unsent())

    def _check(self, unsent_before: int) -> None:
        if self._unsent() > unsent_before - bounds.MIN_READ:
            self._abort()
        else:
            self._wait()
