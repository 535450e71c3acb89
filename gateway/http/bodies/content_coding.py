"""Unpacks a request's body (RFC 9110, section 8.4) within a bound on what comes out, in short slices of work."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from gateway.http.errors import ApiError

SLICE = 1 << 18  # unpacked bytes between two turns of the event loop: about a millisecond
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # as zlib names the formats


def coding_of(content_encoding: str) -> str | None:
    """The coding to undo; None for a body that is as it is. Raises ApiError 415."""
    codings = [name for part in content_encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        message = f"Send the body as it is or in gzip, not in {content_encoding[:40]!r}."
        raise ApiError(415, message, code="unsupported_encoding", headers={"accept-encoding": "gzip, deflate"})
    return codings[0]


class Unpacker:
    """Undoes one coding."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream = zlib.decompressobj(_WINDOW_BITS[coding])

    async def add(self, part: bytes) -> AsyncIterator[bytes]:
        """Slices of what the next part unpacks to; the caller stops at its bound. Raises ApiError 400 if it is bad."""
        while part:
            if self._stream.eof:
                raise self._broken("goes on after its end")
            try:
                unpacked = self._stream.decompress(part, SLICE)
            except zlib.error:
                raise self._broken("is damaged") from None
            part = self._stream.unconsumed_tail or self._stream.unused_data
            if unpacked:
                yield unpacked
            await asyncio.sleep(0)

    def finish(self) -> None:
        """Raises ApiError 400 if there should be more."""
        if not self._stream.eof:
            raise self._broken("ends too early")

    def _broken(self, how: str) -> ApiError:
        return ApiError(400, f"The {self._coding} body {how}.", code="invalid_encoding")
