"""A piece of work and the HTTP client that it is for: it ends when the client has gone."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from edgedraft.links.race import race

T = TypeVar("T")


class ClientGone(Exception):
    """The HTTP client closed the connection; nobody waits for an answer any more."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do `work`, cancelled at once when the client disconnects. The request's body must have been read.

    Raises ClientGone then.
    """

    async def gone() -> T:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ClientGone

    return await race(work, gone())
