"""Reads a request's complete body, within limits of size and time, and unpacks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fastapi import Request
from starlette.requests import ClientDisconnect

from gateway.http.bodies.content_coding import Unpacker, coding_of
from gateway.http.errors import RATE_LIMIT, ApiError

MAX_BODY = 8 << 20  # bytes, as sent and unpacked
_PIECE = 1 << 18  # bytes that are gathered before they are put aside as one piece
BODY_SECONDS = 60.0  # for the complete body


class BodyPieces:
    """A body as it arrives. Many small parts take no more room than a few large ones."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._pieces: list[bytes] = []
        self._last = bytearray()

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self._last += part
        if len(self._last) >= _PIECE:
            self._pieces.append(bytes(self._last))
            self._last = bytearray()

    async def joined(self) -> bytes:
        """All of it. Large ones are joined in a thread, without Python's lock: the system may take 20 ms for 8 MB of
        memory that is new to the process."""
        self._pieces.append(bytes(self._last))
        if len(self._pieces) == 1:
            return self._pieces[0]
        return await asyncio.to_thread(b"".join, self._pieces)


class BodyCounter(Protocol):
    """Bounds the bytes of bodies that are not complete: limits/body_bytes.py."""

    def reading(self, key_id: str, cut_off: Callable[[], None], /) -> AbstractContextManager[Any]: ...

    def take(self, body: Any, size: int, /) -> None: ...


async def read_body(request: Request, key_id: str) -> bytes:
    """The body, counted for this key until it is complete.

    Raises ApiError: 413 above MAX_BODY, 408 after BODY_SECONDS, 415 for an unknown coding, 400 if it ends early or
    cannot be unpacked, 429 when too many bytes of bodies are on their way.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    coding = coding_of(request.headers.get("content-encoding", ""))
    unpacker = Unpacker(coding) if coding else None
    in_flight: BodyCounter = request.app.state.body_bytes
    body, received = BodyPieces(), 0
    loop, timeout = asyncio.get_running_loop(), asyncio.timeout(BODY_SECONDS)
    with in_flight.reading(key_id, lambda: timeout.reschedule(loop.time())) as counted:
        try:
            async with timeout:
                async for part in request.stream():
                    received += len(part)
                    if received > MAX_BODY:
                        raise _too_large()
                    async for piece in unpacker.add(part) if unpacker else _alone(part):
                        in_flight.take(counted, len(piece))
                        body.add(piece)
                        if body.size > MAX_BODY:
                            raise _too_large()
        except TimeoutError:
            if counted.is_cut_off:
                raise too_many_bytes() from None
            raise ApiError(408, f"The body was not here in {BODY_SECONDS:g} seconds.", code="request_timeout") from None
        except ClientDisconnect:
            raise ApiError(400, "The body ended too early.") from None
    if unpacker:
        unpacker.finish()
    return await body.joined()


async def _alone(part: bytes) -> AsyncIterator[bytes]:
    yield part


def _too_large() -> ApiError:
    # The server reads and discards the rest: if it closed the connection early, the client would lose this response.
    return ApiError(413, f"The body has more than {MAX_BODY} bytes.", code="request_too_large")


def too_many_bytes() -> ApiError:
    message = "Too many bytes of request bodies are on their way at once; send fewer or smaller requests side by side."
    return ApiError(429, message, kind=RATE_LIMIT, code="too_many_body_bytes", retry_after=1)
