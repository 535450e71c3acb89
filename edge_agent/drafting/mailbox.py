"""Bounded queues in both directions between the link (in the event loop) and the drafting thread.

Received messages wait in the inbox until the thread drains it; while it is full the link stops reading, and TCP applies
backpressure to the gateway. Drafts wait in the outbox until the link sends them all as one frame; while it is full the
thread does not draft. Either side may close the mailbox; the other side then gets MailboxClosed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence

from edgedraft.wire import Close, Commit, Draft, Open

Incoming = Open | Commit | Close

INBOX_MESSAGES = 1024
INBOX_BYTES = 1 << 22  # of frames; a decoded message takes up to ten times as much
OUTBOX_DRAFTS = 128  # also the most in one frame: at most 128 kB of the 256 kB that a frame may have
FULL_INBOX_POLL_SECONDS = 0.01


class MailboxClosed(Exception):
    """The mailbox has been closed."""


class Mailbox:
    """Must be created in the event loop that the link runs in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._posted = asyncio.Event()
        self._changed = threading.Condition()
        self._inbox: deque[Incoming] = deque()
        self._inbox_bytes = 0
        self._outbox: deque[Draft] = deque()
        self._closed = False

    async def deliver(self, messages: Sequence[Incoming], size: int = 0) -> None:
        """For the link: queue the messages of one frame; waits while the inbox is full. Raises MailboxClosed."""
        while True:
            with self._changed:
                if self._closed:
                    raise MailboxClosed
                if len(self._inbox) < INBOX_MESSAGES and self._inbox_bytes < INBOX_BYTES:
                    self._inbox.extend(messages)
                    self._inbox_bytes += size
                    self._changed.notify()
                    return
            await asyncio.sleep(FULL_INBOX_POLL_SECONDS)

    async def collect(self) -> list[Draft]:
        """For the link: take all queued drafts, in order; waits for the first. Raises MailboxClosed."""
        while True:
            await self._posted.wait()
            self._posted.clear()
            with self._changed:
                if self._closed:
                    raise MailboxClosed
                drafts = [self._outbox.popleft() for _ in range(min(OUTBOX_DRAFTS, len(self._outbox)))]
                if self._outbox:
                    self._posted.set()
                self._changed.notify()
            if drafts:
                return drafts

    def receive(self, wait: bool) -> list[Incoming]:
        """For the drafting thread: take all queued messages, in order.

        Blocks for the first one if `wait` is set, or while the outbox is full. Raises MailboxClosed.
        """
        with self._changed:
            while not self._closed and not self._inbox and (wait or len(self._outbox) >= OUTBOX_DRAFTS):
                self._changed.wait()
            if self._closed:
                raise MailboxClosed
            messages = list(self._inbox)
            self._inbox.clear()
            self._inbox_bytes = 0
            return messages

    def post(self, drafts: Sequence[Draft]) -> None:
        """For the drafting thread: queue drafts to be sent. They are dropped when the mailbox is closed."""
        with self._changed:
            if drafts and not self._closed:
                self._outbox.extend(drafts)
                self._loop.call_soon_threadsafe(self._posted.set)

    def close(self) -> None:
        """Close it, from either side; idempotent."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._changed.notify_all()
                self._loop.call_soon_threadsafe(self._posted.set)
