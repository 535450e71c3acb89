"""Reads a request's complete body, within limits of size and time."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from gateway.http.errors import ApiError

MAX_BODY = 8 << 20  # bytes
BODY_SECONDS = 60.0  # for the complete body


async def read_body(request: Request) -> bytes:
    """Raises ApiError: 413 above MAX_BODY, 408 after BODY_SECONDS, 415 if compressed, 400 if it ends early."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise ApiError(415, f"Send the body as it is, not in {encoding[:40]!r}.", code="unsupported_encoding")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(408, f"The body was not here in {BODY_SECONDS:g} seconds.", code="request_timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The body ended too early.") from None
    return bytes(body)


def _too_large() -> ApiError:
    # The server reads and discards the rest: if it closed the connection early, the client would lose this response.
    return ApiError(413, f"The body has more than {MAX_BODY} bytes.", code="request_too_large")
