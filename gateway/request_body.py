"""A request's body, read whole but never past a bound."""

from __future__ import annotations

from fastapi import Request
from starlette.requests import ClientDisconnect

from gateway.errors import ApiError

MAX_BODY = 8 << 20  # bytes


async def read_body(request: Request) -> bytes:
    """Raises ApiError 413 past MAX_BODY."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _too_large()
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise _too_large()
    except ClientDisconnect:
        raise ApiError(400, "The body ended too early.") from None
    return bytes(body)


def _too_large() -> ApiError:
    # The server goes on reading, and drops, what is left: a connection closed early would lose the client this answer.
    return ApiError(413, f"The body has more than {MAX_BODY} bytes.", code="request_too_large")
