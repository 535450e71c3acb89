"""Graceful shutdown: nothing new is accepted, what runs is finished, and a grace period bounds the wait.

What still runs when the grace period is over is ended by the server that closes its sockets (server.py), which also
handles the signals.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from edgedraft.observability.logs import event

log = logging.getLogger(__name__)


class Drain:
    """The state of one process's shutdown.

    `hooks` are called when the drain begins, and the drain waits for them. `status` returns the fields of the log
    lines.
    """

    def __init__(self, grace: float) -> None:
        """`grace` is the longest that `run` takes, in seconds."""
        self.begun = False
        self.hooks: list[Callable[[], Awaitable[None]]] = []
        self.status: Callable[[], dict[str, Any]] = lambda: {"requests": self._running}
        self._grace = grace
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Ends when nothing is running and all hooks have ended, or when the grace period is over."""
        self.begun = True
        event(log, "draining", grace=self._grace, **self.status())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                await asyncio.gather(self._idle.wait(), *(hook() for hook in self.hooks))
        event(log, "drained", **self.status())

    def enter(self) -> None:
        """Count something that the drain has to wait for, until `exit`."""
        self._running += 1
        self._idle.clear()

    def exit(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()
