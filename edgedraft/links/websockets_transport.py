"""Links on connections of the `websockets` library: the dialling side, and servers that are not ASGI apps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from edgedraft.links.settings import LinkSettings
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_connection import client_connection


def connection_options(settings: LinkSettings) -> dict[str, Any]:
    """Keyword arguments that `connect` and `serve` share.

    Messages are not compressed: a few bytes could decompress into a full `max_frame`.
    """
    return {
        "max_size": settings.max_frame,
        "max_queue": settings.max_unread_frames,
        "compression": None,
        "close_timeout": settings.close_timeout,
        "ping_interval": settings.ping_interval,
        "ping_timeout": settings.ping_interval,
    }


class WebSocketsTransport:
    """transport.Transport over a client's or a server's connection."""

    def __init__(self, connection: ClientConnection | ServerConnection) -> None:
        self._connection = connection

    @property
    def response_headers(self) -> Mapping[str, str]:
        """Headers of the HTTP response that opened the WebSocket; empty on a server's side until it is sent."""
        return self._connection.response.headers if self._connection.response else {}

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def receive(self) -> bytes | str:
        try:
            return await self._connection.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        try:
            async with asyncio.timeout(self._connection.close_timeout):
                await self._connection.close(code, reason)
        except TimeoutError:  # the closing frame waits behind what the peer does not read
            self._connection.transport.abort()

    async def ping(self) -> float:
        """Returns the round-trip time of one ping in seconds. Raises TransportClosed."""
        try:
            return await (await self._connection.ping())
        except ConnectionClosed as closed:
            raise _closed(closed) from None


async def dial(
    url: str, settings: LinkSettings, headers: Mapping[str, str] | None = None, host: str = ""
) -> WebSocketsTransport:
    """Open a WebSocket, at the address `host` if that is given instead of the one that the URL's name resolves to.

    TLS certificates are verified against the URL. Raises OSError, TimeoutError or a websockets exception
    (InvalidStatus for an HTTP response that refuses it); ImportError if a SOCKS proxy is configured and its package
    is not installed.
    """
    options = {**connection_options(settings), "create_connection": client_connection(settings)}
    if host:
        options["host"] = host
    if not settings.use_proxy:
        options["proxy"] = None
    if not settings.identify:
        options["user_agent_header"] = None
    return WebSocketsTransport(
        await connect(url, additional_headers=headers, open_timeout=settings.open_timeout, **options)
    )


def _closed(closed: ConnectionClosed) -> TransportClosed:
    if closed.rcvd is None:
        return TransportClosed(None, text=str(closed))
    return TransportClosed(closed.rcvd.code, closed.rcvd.reason, str(closed.rcvd))
