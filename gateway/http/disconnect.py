"""Cancels the work for a request when its HTTP client disconnects."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from edgedraft.links.race import race

T = TypeVar("T")


class ClientGone(Exception):
    """The HTTP client closed the connection before the response was complete."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Returns the result of `work`. When the client disconnects, cancels it and raises ClientGone.

    The request's body must have been read before.
    """

    async def gone() -> T:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ClientGone

    return await race(work, gone())
