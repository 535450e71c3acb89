"""Bounds how many opened WebSockets of one endpoint may be waited for to say hello."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgedraft.links.link import Frame, Link
from edgedraft.wire import Hello

MAX_PENDING = 1024  # links per endpoint and process; each has the greeting timeout of its kind


class Greetings:
    """The links of one endpoint that have not said hello. While it is `full`, handshakes are refused with HTTP 503."""

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self._limit = limit
        self._pending = 0

    @property
    def full(self) -> bool:
        return self._pending >= self._limit

    async def receive_hello(self, link: Link, decode: Callable[[Frame], Sequence[object]]) -> Hello:
        """As Link.receive_hello, which raises WireError or TransportClosed."""
        self._pending += 1
        try:
            return await link.receive_hello(decode)
        finally:
            self._pending -= 1
