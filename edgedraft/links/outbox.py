"""Messages that wait to be sent on one link, batched into frames.

All messages that are queued when the previous frame has been sent go out as one frame. The queue is bounded: a peer
that does not read loses its link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from edgedraft.links.settings import LinkSettings
from edgedraft.wire import MAX_MESSAGES, TIMEOUT, Open, WireError

_TOKEN_BYTES = 5  # of one token id in MessagePack, at most


class PeerTooSlow(WireError):
    """The peer does not read what is sent to it. The close code is TIMEOUT."""

    def __init__(self, reason: str) -> None:
        super().__init__(TIMEOUT, reason)


class Outgoing(Protocol):
    """What a link sends: batches of messages, one frame each."""

    async def next_batch(self) -> Sequence[Struct]:
        """Wait until there is something to send; returns the messages of the next frame."""
        ...

    async def overflow(self) -> None:
        """Wait until too much is queued. Raises PeerTooSlow then; a source that blocks its producer never does."""
        await asyncio.Event().wait()


class Outbox(Outgoing):
    """Messages on their way to one peer, in order; at most `settings.max_queued` of them."""

    def __init__(self, settings: LinkSettings) -> None:
        self._limit = settings.max_queued
        self._max_frame = settings.max_peer_frame
        self._messages: list[Struct] = []
        self._filled = asyncio.Event()
        self._overflowed = asyncio.Event()

    @property
    def congested(self) -> bool:
        """More than half full: messages that are optional should be left out."""
        return len(self._messages) > self._limit // 2

    def put(self, message: Struct) -> None:
        """Queue one message. Past the limit it is dropped, and the link ends with PeerTooSlow."""
        if len(self._messages) >= self._limit:
            self._overflowed.set()
            return
        self._messages.append(message)
        self._filled.set()

    async def next_batch(self) -> list[Struct]:
        """All queued messages, or the first of them if they are too many or too large for one frame."""
        await self._filled.wait()
        bytes_left, count = self._max_frame // 2, 0
        for message in self._messages[:MAX_MESSAGES]:
            bytes_left -= _token_bytes(message) if isinstance(message, Open) else 0
            if bytes_left < 0 and count:
                break
            count += 1
        batch, self._messages = self._messages[:count], self._messages[count:]
        if not self._messages:
            self._filled.clear()
        return batch

    async def overflow(self) -> None:
        await self._overflowed.wait()
        raise PeerTooSlow(f"{self._limit} messages are waiting to be read")


def _token_bytes(message: Open) -> int:
    """Upper bound of what an Open's token ids take in a frame."""
    return _TOKEN_BYTES * (len(message.prompt) + len(message.committed) + len(message.prediction))
