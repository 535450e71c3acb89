"""The end of a gateway in good order: nothing new is let in, agents are told to move, what runs is finished.

It decides who may still come in and when all have left. Signals and sockets are edgedraft/serving/server.py's; what
outlasts the grace is ended there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgedraft.observability.logs import event
from gateway.http.errors import shutting_down

log = logging.getLogger(__name__)

BODY_SECONDS, BODY_BYTES = 1.0, 1 << 22  # of a refused request that are read
WATCHED = frozenset({"/health", "/healthz", "/readyz", "/metrics"})  # answered to the last


class Drain:
    """`leave` are the parts that have something to do about it at once; they end soon by themselves."""

    def __init__(self, grace: float) -> None:
        self.begun = False
        self.leave: list[Callable[[], Awaitable[None]]] = []
        self._grace = grace
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Ends when all requests have, or with the grace."""
        self.begun = True
        event(log, "draining", requests=self._running, grace=self._grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                await asyncio.gather(self._idle.wait(), *(part() for part in self.leave))
        event(log, "drained", requests=self._running)

    def enter(self) -> None:
        self._running += 1
        self._idle.clear()

    def exit(self) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()


class DrainMiddleware:
    """ASGI middleware: counts the requests that run, turns new ones away from a gateway that is ending.

    Every answer of one that is ending has its connection closed, so that the client's next request goes elsewhere.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_last(message: Message) -> None:
            if self._drain.begun and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if scope["path"] in WATCHED:
            await self._app(scope, receive, send_last)
        elif self._drain.begun:
            await _read(receive)
            await shutting_down().response()(scope, receive, send_last)
        else:
            self._drain.enter()
            try:
                await self._app(scope, receive, send_last)
            finally:
                self._drain.exit()


async def _read(receive: Receive) -> None:
    """Take in the body: a connection that is closed while it comes is reset, and the answer is lost with it."""
    left = BODY_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while left > 0:
                message = await receive()
                if not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
