"""Server-sent events: sending the frames of a generation, and ending the stream when it fails.

The endpoint's encoder turns events into bytes, and the endpoint says what a failure means.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.http.disconnect import ClientGone, while_connected
from gateway.http.errors import ApiError, shutting_down

DONE = b"data: [DONE]\n\n"

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class StreamEncoder(Protocol[T_contra]):
    """Makes one stream's frames."""

    def encode(self, event: T_contra, /) -> bytes:
        """The frames of one item of the source; may be empty."""
        ...

    async def finish(self) -> bytes:
        """The frames after the last item."""
        ...

    def fail(self, error: ApiError) -> bytes:
        """The frames that end a stream which has begun and cannot be finished."""
        ...


def frame(document: dict[str, Any]) -> bytes:
    """One event. ASCII only, because some clients split lines at U+2028 and similar characters."""
    body = msgspec.json.encode(document)
    if not body.isascii():
        body = json.dumps(document, separators=(",", ":")).encode()
    return b"data: " + body + b"\n\n"


def error_frames(error: ApiError) -> bytes:
    """The end of a failed stream in OpenAI's shape: an error event, then [DONE]."""
    return frame(error.body) + DONE


class EventStream(Response):
    """Sends the source's items as frames, and closes the source when the client disconnects.

    The status is sent with the first frame: an exception before it becomes an ordinary error response. A later one, and
    a server that shuts down, end the stream with the encoder's `fail`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AbstractAsyncContextManager[AsyncIterator[T]],
        encoder: StreamEncoder[T],
        to_api_error: Callable[[Exception, bool], ApiError],
        on_end: Callable[[], None],
    ) -> None:
        """`to_api_error` takes an exception and whether a frame was sent; it may raise the exception instead.

        `on_end` is called once, however the stream ends.
        """
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._encoder = encoder
        self._to_api_error = to_api_error
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_body(body: bytes, more: bool = True) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def send_all() -> None:
            try:
                async with self._source as items:
                    async for item in items:
                        if frames := self._encoder.encode(item):
                            await send_body(frames)
                await send_body(await self._encoder.finish())
            except Exception as error:
                failure = self._to_api_error(error, started)
                if not started:
                    raise failure from error
                await send_body(self._encoder.fail(failure))
            await send_body(b"", more=False)

        try:
            await while_connected(receive, send_all())
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not started:
                raise shutting_down() from None
            await send_body(self._encoder.fail(shutting_down()), more=False)
        finally:
            self._on_end()
