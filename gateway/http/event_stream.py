"""Server-sent events: sending the frames of a generation, and ending the stream when it fails.

The endpoint's encoder turns events into bytes, and the endpoint says what a failure means.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.http.disconnect import ClientGone, while_connected
from gateway.http.errors import ApiError, shutting_down

STEP_SECONDS = 0.005  # of encoding in one step of the event loop
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class StreamEncoder(Protocol[T_contra]):
    """Makes one stream's frames."""

    def encode(self, event: T_contra, /) -> Iterator[bytes]:
        """The frames of one item of the source, in pieces between which others may run; may be empty."""
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


async def join_pieces(pieces: Iterable[bytes]) -> bytes:
    """All of them. While they are made, others run every STEP_SECONDS."""
    made: list[bytes] = []
    began = time.perf_counter()
    for piece in pieces:
        made.append(piece)
        if time.perf_counter() - began > STEP_SECONDS:
            await asyncio.sleep(0)
            began = time.perf_counter()
    return made[0] if len(made) == 1 else b"".join(made)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When a stream without frames shows signs of life, since proxies close connections that are silent; in seconds.

    The status and a comment, which clients ignore, are sent when nothing came for `status_after`, and another comment
    after every `comment_every` without a frame, unless that is 0.
    """

    status_after: float = 5.0
    comment_every: float = 15.0


class EventStream(Response):
    """Sends the source's items as frames, and closes the source when the client disconnects.

    The status is sent with the first frame, or a while after nothing came: an exception before it becomes an ordinary
    error response. A later one, and a server that shuts down, end the stream with the encoder's `fail`.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        source: AbstractAsyncContextManager[AsyncIterator[T]],
        encoder: StreamEncoder[T],
        to_api_error: Callable[[Exception, bool], ApiError],
        on_end: Callable[[], None],
        keep_alive: KeepAlive,
    ) -> None:
        """`to_api_error` takes an exception and whether the status was sent; it may raise the exception instead.

        `on_end` is called once, however the stream ends.
        """
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._encoder = encoder
        self._to_api_error = to_api_error
        self._on_end = on_end
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = _Sender(send, self.raw_headers)

        async def send_all() -> None:
            comments = asyncio.create_task(sender.send_comments(self._keep_alive))
            try:
                async with self._source as items:
                    async for item in items:
                        if frames := await join_pieces(self._encoder.encode(item)):
                            await sender.send(frames)
                last = await self._encoder.finish()
            except Exception as error:
                failure = self._to_api_error(error, sender.started)
                if not sender.started:
                    raise failure from error
                last = self._encoder.fail(failure)
            finally:
                comments.cancel()
                await asyncio.gather(comments, return_exceptions=True)
            await sender.send(last)
            await sender.send(b"", more=False)

        try:
            await while_connected(receive, send_all())
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not sender.started:
                raise shutting_down() from None
            await sender.send(self._encoder.fail(shutting_down()), more=False)
        finally:
            self._on_end()


class _Sender:
    """The response's messages, one at a time. `started` says that the status is sent."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = False
        self._send = send
        self._headers = headers
        self._sending = asyncio.Lock()
        self._sent_at = time.monotonic()

    async def send(self, body: bytes, more: bool = True) -> None:
        async with self._sending:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
            self._sent_at = time.monotonic()

    async def send_comments(self, keep_alive: KeepAlive) -> None:
        """Sends a comment whenever nothing was sent for long enough. Runs until it is cancelled."""
        while True:
            seconds = keep_alive.comment_every if self.started else keep_alive.status_after
            if not seconds:
                return
            silent = time.monotonic() - self._sent_at
            if silent < seconds:
                await asyncio.sleep(seconds - silent)
            elif self._sending.locked():
                await asyncio.sleep(seconds)  # the client does not read; there is enough on the way
            else:
                await self.send(COMMENT)
