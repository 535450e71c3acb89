"""Reads bodies of JSON without holding the event loop: counted first, and large ones parsed in a worker process."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import Request

from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.pool import JobFailed, JobOwner, JobTooCostly, WorkerPool, WorkersUnavailable
from gateway.http.bodies.body import read_body
from gateway.http.bodies.json_text import count_json
from gateway.http.bodies.validation import read_object
from gateway.http.errors import SERVER, ApiError

SMALL = 1 << 16  # bytes; a body of them is parsed in a few milliseconds, whatever it is
SECONDS = 0.01  # that parsing may take in the event loop
LIMITS = WorkerLimits(cpu_seconds=5.0, wall_seconds=30.0, memory_bytes=1 << 30, output_bytes=1 << 25)


class JsonBodies:
    """Use `close` at the end."""

    def __init__(self, max_values: int, max_strings: int) -> None:
        """The bounds are of one body, above SMALL bytes; a smaller one cannot exceed 2^15 of each."""
        self._max_values = max_values
        self._max_strings = max_strings
        self._pool = WorkerPool("gateway.http.bodies.json_worker", LIMITS, size=1)

    async def read(self, request: Request, owner: JobOwner) -> dict[str, Any]:
        """A request's body, a JSON object. Raises as read_body and `parse`."""
        return await self.parse(await read_body(request, owner.share), owner)

    async def parse(self, body: bytes, owner: JobOwner) -> dict[str, Any]:
        """The body, a JSON object. Raises ApiError: 400 for anything else, 503 without a worker; and JobRefused."""
        if len(body) <= SMALL:
            return read_object(body)
        seconds, code_points = 0.0, False
        for size in count_json(body):
            if size.values > self._max_values:
                raise _too_many(f"{self._max_values} values")
            if size.strings > self._max_strings:
                raise _too_many(f"{self._max_strings} strings, objects and arrays")
            seconds, code_points = size.seconds, size.code_points
            await asyncio.sleep(0)
        if code_points:
            seconds *= 3  # there may be half of a surrogate pair, which a slower parser reads
        document = read_object(body) if seconds < SECONDS else await self._parse_in_worker(body, owner)
        await asyncio.sleep(0)
        return document

    def close(self) -> None:
        self._pool.close()

    async def _parse_in_worker(self, body: bytes, owner: JobOwner) -> dict[str, Any]:
        try:
            return msgspec.msgpack.decode(await self._pool.run(body, owner), type=dict[str, Any])
        except JobFailed as error:
            raise ApiError(400, str(error)) from None
        except JobTooCostly:
            raise ApiError(400, "The body needs too much time or memory to parse.") from None
        except WorkersUnavailable as error:
            message = f"Large bodies cannot be parsed now: {error}"
            raise ApiError(503, message, kind=SERVER, code="unavailable", retry_after=1) from None


def _too_many(what: str) -> ApiError:
    return ApiError(400, f"The body has more than {what}.", code="too_many_values")
