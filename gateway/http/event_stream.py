"""Server-sent events, and how they end when something other than the last token ends them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.http.disconnect import ClientGone, while_connected
from gateway.http.errors import SERVER, error_body, shutting_down

DONE = b"data: [DONE]\n\n"


def frame(document: dict[str, Any]) -> bytes:
    """One event. ASCII only, for some clients split lines at U+2028 and its like."""
    body = msgspec.json.encode(document)
    if not body.isascii():
        body = json.dumps(document, separators=(",", ":")).encode()
    return b"data: " + body + b"\n\n"


class EventStream(Response):
    """Sends frames as they come, and closes their source at once when the client disconnects.

    The status goes out with the first frame: an exception before it is an ordinary error response, and whoever makes
    the frames turns later ones into an error frame. A server that shuts down ends the stream with one, too.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes], ended: Callable[[], None], failure: Callable[[str, str], bytes]
    ) -> None:
        """`ended` is called when the stream is over, however it ends; `failure` makes an end of message and code."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._ended = ended
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_body(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def send_all() -> None:
            nonlocal started
            async with aclosing(self._frames) as frames:
                async for body in frames:
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await send_body(body)
            await send_body(b"", more=False)

        try:
            await while_connected(receive, send_all())
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not started:
                raise shutting_down() from None
            await send_body(self._failure(str(shutting_down()), "shutting_down"), more=False)
        finally:
            self._ended()


def failed_end(message: str, code: str) -> bytes:
    """How a stream ends that has begun and cannot be finished."""
    return frame(error_body(message, SERVER, code=code)) + DONE
