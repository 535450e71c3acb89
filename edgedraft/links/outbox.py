"""What both kinds of link have in common: numbers for their sessions, and an outbox that batches what goes out.

Whatever is queued when the writer is free goes out as one frame; while a frame is being sent, the next one collects.
The outbox is bounded: a peer that does not read loses its link, never the gateway's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from msgspec import Struct

from edgedraft.wire import MAX_FRAME, MAX_MESSAGES, Open, encode_frame

SEND_SECONDS = 20.0  # for one frame; a peer that takes longer is gone
OUTBOX_MESSAGES = 4096
_OPEN_BYTES = 5  # of one token id in MessagePack, at most

H = TypeVar("H")


class TooSlow(Exception):
    """The peer does not read what it is sent."""


class SessionTable(Generic[H]):
    """The sessions open on one link, each with whoever is told of its messages. Numbers count from 1, never again."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, H] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, listener: H) -> int:
        self._last += 1
        self._open[self._last] = listener
        return self._last

    def find(self, number: int) -> H | None:
        """None for a session that has ended. Raises KeyError for a number that was never given out."""
        if number > self._last:
            raise KeyError(number)
        return self._open.get(number)

    def remove(self, number: int) -> bool:
        return self._open.pop(number, None) is not None

    def clear(self) -> list[H]:
        """End all; returns who is to be told."""
        listeners = list(self._open.values())
        self._open.clear()
        return listeners


class Outbox:
    """Messages on their way to one peer, in order."""

    def __init__(self, limit: int = OUTBOX_MESSAGES, max_frame: int = MAX_FRAME) -> None:
        """At most `limit` messages wait; the peer reads frames of `max_frame` bytes."""
        self._limit = limit
        self._max_frame = max_frame
        self._messages: list[Struct] = []
        self._filled = asyncio.Event()
        self._overflowed = asyncio.Event()

    @property
    def crowded(self) -> bool:
        """More than half full: time to leave out what can be left out."""
        return len(self._messages) > self._limit // 2

    def put(self, message: Struct) -> None:
        """Past the limit the message is dropped and the link ends (overflow)."""
        if len(self._messages) >= self._limit:
            self._overflowed.set()
            return
        self._messages.append(message)
        self._filled.set()

    async def write(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send for ever. Raises TooSlow, or what `send` raises."""
        while True:
            await self._filled.wait()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(encode_frame(self._take()))
            except TimeoutError:
                raise TooSlow(f"a frame was not read in {SEND_SECONDS:.0f} seconds") from None

    async def overflow(self) -> None:
        """Wait for ever, or until the limit is passed. Raises TooSlow then."""
        await self._overflowed.wait()
        raise TooSlow(f"{self._limit} messages are waiting to be read")

    def _take(self) -> list[Struct]:
        """The next frame's messages: all, unless they are too many or too large for one."""
        room, count = self._max_frame // 2, 0
        for message in self._messages[:MAX_MESSAGES]:
            room -= _bytes(message) if isinstance(message, Open) else 0
            if room < 0 and count:
                break
            count += 1
        taken, self._messages = self._messages[:count], self._messages[count:]
        if not self._messages:
            self._filled.clear()
        return taken


def _bytes(message: Open) -> int:
    """What an Open's token ids take, at most."""
    return _OPEN_BYTES * (len(message.prompt) + len(message.committed) + len(message.prediction))
