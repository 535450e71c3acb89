"""Runs an ASGI app under uvicorn: reports its address once it listens, and drains it before it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn

from edgedraft.serving.http_bounds import KEEP_ALIVE_SECONDS
from edgedraft.serving.http_connection import HttpConnection
from edgedraft.serving.open_files import allow_many_files
from edgedraft.serving.websocket_protocol import BoundedWebSocket

RunDrain = Callable[[], Coroutine[Any, Any, None]]
GRACEFUL_SECONDS = 5  # for requests that run when the sockets are closed
DRAINED_SECONDS = 1  # the same, after a drain


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], drain: RunDrain | None) -> None:
        super().__init__(config)
        self._ready = ready
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def main_loop(self) -> None:
        await super().main_loop()
        if self._drain is None:
            return
        self._draining = asyncio.create_task(self._drain())
        ticks = 0
        while not self._draining.done():
            await self.on_tick(ticks := ticks + 1)
            await asyncio.wait([self._draining], timeout=0.1)
        if not self._draining.cancelled():
            self._draining.result()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts the drain, the second ends it, a third ends the process; each exits with status 0."""
        if self._drain is None:
            super().handle_exit(sig, frame)
        elif not self.should_exit:
            self.should_exit = True
        elif self._draining and not self._draining.done():
            self._draining.get_loop().call_soon_threadsafe(self._draining.cancel)
        else:
            self.force_exit = True


def server_config(
    app: Any, max_frame: int, ping_seconds: float, graceful_seconds: int, keep_alive: float = KEEP_ALIVE_SECONDS
) -> uvicorn.Config:
    """uvicorn's configuration. WebSockets are not compressed: a few bytes could decompress into `max_frame`."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=HttpConnection,
        ws=BoundedWebSocket,
        ws_max_size=max_frame,
        ws_ping_interval=ping_seconds,
        ws_ping_timeout=ping_seconds,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=graceful_seconds,
        timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # seconds, of which uvicorn wants whole ones
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address to listen on."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(
    app: Any,
    host: str,
    port: int,
    ready: Callable[[str], str],
    max_frame: int,
    ping_seconds: float = 20.0,
    drain: RunDrain | None = None,
    keep_alive: float = KEEP_ALIVE_SECONDS,
) -> None:
    """Serve until SIGINT or SIGTERM. `ready("HOST:PORT")` is printed once connections are accepted; port 0 picks one.

    `max_frame` bounds a WebSocket message in bytes; a peer silent for two `ping_seconds` is dropped. Connections may be
    idle for `keep_alive` seconds. The soft limit of
    open files is raised to the hard one. With a `drain` the signal starts it, while requests are still answered; when
    it has ended the sockets are closed, and the process exits with status 0.
    """
    allow_many_files()
    listener = socket.create_server((host, port), backlog=2048)
    address, bound = listener.getsockname()[:2]
    graceful_seconds = GRACEFUL_SECONDS if drain is None else DRAINED_SECONDS
    config = server_config(app, max_frame, ping_seconds, graceful_seconds, keep_alive)
    _Server(config, lambda: print(ready(f"{address}:{bound}"), flush=True), drain).run([listener])
