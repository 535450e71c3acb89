"""Aborts a connection whose peer does not read: the write buffer stays full, or does not drain once it is closed.

asyncio closes a transport only after its write buffer has been read, which a hostile peer never does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class WriteDeadline:
    """The timers of one connection, on its event loop. Times are in seconds."""

    def __init__(self, abort: Callable[[], None], full: float, closing: float) -> None:
        """`abort` is called when the buffer was full for `full` seconds, or `closing` after the close began."""
        self._abort = abort
        self._full_seconds = full
        self._closing_seconds = closing
        self._full: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None

    def paused(self) -> None:
        """The write buffer is full."""
        if self._full is None:
            self._full = asyncio.get_running_loop().call_later(self._full_seconds, self._abort)

    def resumed(self) -> None:
        """The peer has read most of it."""
        if self._full:
            self._full.cancel()
            self._full = None

    def closing(self) -> None:
        """The connection is to be closed."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(self._closing_seconds, self._abort)

    def stop(self) -> None:
        """The connection is lost."""
        for timer in (self._full, self._closing):
            if timer:
                timer.cancel()
        self._full = self._closing = None
