"""Links on an ASGI server's WebSockets, as Starlette presents them; the server enforces frame size and pings."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from edgedraft.links.settings import LinkSettings
from edgedraft.links.transport import TransportClosed


class StarletteTransport:
    """transport.Transport over a WebSocket that was accepted."""

    def __init__(self, websocket: WebSocket, settings: LinkSettings) -> None:
        self._websocket = websocket
        self._close_timeout = settings.close_timeout

    async def send(self, frame: bytes) -> None:
        try:
            await self._websocket.send_bytes(frame)
        except WebSocketDisconnect as closed:
            raise TransportClosed(closed.code, closed.reason) from None

    async def receive(self) -> bytes | str:
        event = await self._websocket.receive()
        if event["type"] == "websocket.disconnect":
            raise TransportClosed(event["code"], event.get("reason") or "")
        data = event.get("bytes")
        return event["text"] if data is None else data

    async def close(self, code: int = 1000, reason: str = "") -> None:
        with suppress(TimeoutError, RuntimeError, WebSocketDisconnect):  # RuntimeError: closed already
            async with asyncio.timeout(self._close_timeout):
                await self._websocket.close(code, reason)
