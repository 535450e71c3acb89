"""ASGI middleware for a gateway that shuts down: it counts running requests and refuses new ones."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgedraft.serving.drain import Drain
from gateway.http.errors import shutting_down

BODY_SECONDS, BODY_BYTES = 1.0, 1 << 22  # of a refused request's body that are read
ALWAYS_ANSWERED = frozenset({"/health", "/healthz", "/readyz", "/metrics"})


class DrainMiddleware:
    """Answers 503 to requests that arrive once the drain has begun.

    A request that has no response yet when the grace period is over is answered with 503 too.
    Every response sent from then on closes its connection, so that the client's next request reaches another replica.
    """

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_and_close(message: Message) -> None:
            nonlocal started
            started = True
            if self._drain.begun and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send_and_close)
        elif self._drain.begun:
            await _discard_body(receive)
            await shutting_down().response()(scope, receive, send_and_close)
        else:
            self._drain.enter()
            try:
                await self._app(scope, receive, send_and_close)
            except asyncio.CancelledError:  # by the server, after the grace period
                if not started:
                    await shutting_down().response()(scope, receive, send_and_close)
            finally:
                self._drain.exit()


async def _discard_body(receive: Receive) -> None:
    """Read the body: closing a connection with unread data resets it, and the client would lose the response."""
    left = BODY_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while left > 0:
                message = await receive()
                if not message.get("more_body"):
                    return
                left -= len(message.get("body", b""))
