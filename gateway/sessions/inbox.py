"""A session's inbox: messages wait for the one reader, which learns when none came for too long.

A token costs no timer of its own: one runs until the first deadline, and then on to the present one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

M = TypeVar("M")


class Inbox(Generic[M]):
    """For one event loop. Call `close` at the end."""

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._waiting: asyncio.Future[None] | None = None  # the reader
        self._deadline = 0.0  # of the reader, by the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ends = 0.0

    @property
    def is_empty(self) -> bool:
        return not self._messages

    def put(self, message: M) -> None:
        self._messages.append(message)
        self._wake()

    async def get(self, seconds: float) -> M | None:
        """The next message, None when there was none for so long."""
        if not self._messages:
            loop = asyncio.get_running_loop()
            self._deadline = loop.time() + seconds
            if self._timer is None or self._timer_ends > self._deadline:
                self._start_timer(loop)
            self._waiting = loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        self._timer_ends = self._deadline
        self._timer = loop.call_at(self._deadline, self._timer_ended, loop)

    def _timer_ended(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if loop.time() < self._deadline:
            self._start_timer(loop)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(None)
