"""The interface between a link and the WebSocket library that carries it.

Every frame of every link passes through an implementation of Transport: websockets_transport.py on connections of the
`websockets` library, starlette_transport.py on an ASGI server's. What must hold for all links on the level of frames
and buffers belongs there.
"""

from __future__ import annotations

from typing import Protocol


class TransportClosed(Exception):
    """The connection is closed. `code` and `reason` are the peer's; `code` is None if it sent no close frame."""

    def __init__(self, code: int | None, reason: str = "", text: str = "") -> None:
        super().__init__(text or (f"closed with {code} {reason}".rstrip() if code else "the connection broke"))
        self.code = code
        self.reason = reason


class Transport(Protocol):
    """One open WebSocket. Cancelling a call leaves it usable, except for closing."""

    async def send(self, frame: bytes) -> None:
        """Send one binary message; waits while the peer's buffers are full. Raises TransportClosed."""
        ...

    async def receive(self) -> bytes | str:
        """The next message, binary or text. Raises TransportClosed."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close within the link's close_timeout. Never raises; does nothing on a connection that is closed."""
        ...
