"""Running an ASGI app under uvicorn so that whoever started it learns its address, and reading its WebSockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgedraft.open_files import allow_many_files


async def receive_frame(socket: WebSocket) -> bytes | str:
    """The next message, binary or text: which of them is right is the decoder's to say. Raises WebSocketDisconnect."""
    event = await socket.receive()
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event["code"], event.get("reason"))
    data = event.get("bytes")
    return event["text"] if data is None else data


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def serve(
    app: Any, host: str, port: int, ready: Callable[[str], str], max_frame: int, ping_seconds: float = 20.0
) -> None:
    """Serve until SIGINT or SIGTERM. `ready("HOST:PORT")` is printed once connections are taken; port 0 picks one.

    `max_frame` bounds a WebSocket message in bytes; a peer silent for two `ping_seconds` is dropped. The process may
    have as many sockets open as its hard limit of files allows.
    """
    allow_many_files()
    listener = socket.create_server((host, port), backlog=2048)
    address, bound = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=max_frame,
        ws_ping_interval=ping_seconds,
        ws_ping_timeout=ping_seconds,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
    )
    _Server(config, lambda: print(ready(f"{address}:{bound}"), flush=True)).run([listener])
