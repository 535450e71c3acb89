"""Responses kept in SQL, so that a later request can go on from one by its id.

A row holds what one request put in and what it got, as JSON; a conversation is a chain of rows, each naming the one
before. Rows belong to a tenant's owner and are nobody else's to see. What is kept is bounded: a row by the request's
own bounds, a chain by its length and bytes, an owner by bytes (the longest unused go first), everything by age.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json
from sqlalchemy import ColumnElement, and_, delete, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.accounts import Owner
from gateway.api.responses.items import Item
from gateway.storage.database import Database, DatabaseDown
from gateway.storage.tables import responses

log = logging.getLogger(__name__)

MAX_CHAIN = 256  # responses of one conversation
MAX_CHAIN_BYTES = 16 << 20  # of JSON, all of a conversation
MAX_RESPONSE_BYTES = 16 << 20  # of JSON, one response with its input
_DAY = 86400
_HOUR = 3600
_AT_ONCE = 500  # rows that one statement deletes at most
_OWNERS = 4096  # owners whose growth is remembered

_row = responses.c


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response and the items that its own request put in. `length` counts the chain that ends with it."""

    id: str
    previous: str | None
    length: int
    input: list[Item]
    body: dict[str, Any]

    @property
    def items(self) -> list[Item]:
        """What it adds to a conversation."""
        return [*self.input, *self.body["output"]]


class NotStored(Exception):
    """A response, or one that it follows, is not there; the text is its id."""


class TooLarge(Exception):
    """A response is larger than what is kept; the text says how large."""


class ChainTooLong(Exception):
    """A conversation has grown past what is kept; the text says how."""


class ResponseStore:
    """The stored responses of one database. All raise DatabaseDown when that does not answer."""

    def __init__(self, database: Database, days: int, bytes_per_owner: int) -> None:
        """`days` without use and a response is deleted; `bytes_per_owner` counts JSON, and may be passed by a 16th."""
        self._database = database
        self._days = days
        self._bytes_per_owner = bytes_per_owner
        self._growth: dict[Owner, int] = {}  # bytes since an owner's rows were last added up

    async def save(self, owner: Owner, response: StoredResponse) -> None:
        """Keep it, and keep those it follows for as long. Raises TooLarge."""
        given, body = _text(response.input), _text(response.body)
        size = len(given) + len(body)
        if size > MAX_RESPONSE_BYTES:
            raise TooLarge(f"{size} bytes")
        now = int(time.time())
        row = {
            "id": response.id,
            "tenant": owner[0],
            "owner": owner[1],
            "previous": response.previous,
            "length": response.length,
            "used": now,
            "size": size,
            "input": given,
            "body": body,
        }
        async with self._database.begin() as connection:
            await connection.execute(insert(responses).values(row))
            if response.previous:
                chain = [link.id for link in await _links(connection, owner, response.previous)]
                # Once a day is enough for what is kept by days.
                stale = and_(_row.id.in_(chain), _row.used < now - _DAY)
                await connection.execute(update(responses).where(stale).values(used=now))
            if self._has_grown(owner, size):
                await self._shrink(connection, owner)

    async def get(self, owner: Owner, response_id: str) -> StoredResponse:
        """Raises NotStored."""
        found = await self.several(owner, [response_id])
        if not found:
            raise NotStored(response_id)
        return found[response_id]

    async def several(self, owner: Owner, ids: Collection[str]) -> dict[str, StoredResponse]:
        """Those of them that are there, by id."""
        async with self._database.connect() as connection:
            return await _read(connection, owner, ids)

    async def chain(self, owner: Owner, response_id: str) -> list[StoredResponse]:
        """The conversation that ends with this response, oldest first. Raises NotStored or ChainTooLong."""
        async with self._database.connect() as connection:
            links = await _links(connection, owner, response_id)
            if not links:
                raise NotStored(response_id)
            if links[0].length >= MAX_CHAIN:
                raise ChainTooLong(f"it has {links[0].length} responses, and {MAX_CHAIN} is the most")
            if (size := sum(link.size for link in links)) > MAX_CHAIN_BYTES:
                raise ChainTooLong(f"it has {size} bytes, and {MAX_CHAIN_BYTES} is the most")
            if links[-1].previous:
                raise NotStored(links[-1].previous)
            rows = await _read(connection, owner, [link.id for link in links])
        try:
            return [rows[link.id] for link in reversed(links)]
        except KeyError as gone:
            raise NotStored(gone.args[0]) from None

    async def delete(self, owner: Owner, response_id: str) -> bool:
        """False when it is not there. Responses that follow it can no longer be gone on from."""
        async with self._database.begin() as connection:
            done = await connection.execute(delete(responses).where(_of(owner), _row.id == response_id))
        return done.rowcount == 1

    async def purge(self) -> int:
        """Delete what nobody used for so many days; how many there were."""
        too_old = _row.used < int(time.time()) - self._days * _DAY
        count = 0
        while True:
            some = select(_row.id).where(too_old).limit(_AT_ONCE).scalar_subquery()
            async with self._database.begin() as connection:
                done = await connection.execute(delete(responses).where(_row.id.in_(some)))
            count += done.rowcount
            if done.rowcount < _AT_ONCE:
                return count

    async def keep_purged(self) -> None:
        """Purge every hour, until cancelled."""
        while True:
            try:
                if count := await self.purge():
                    log.info("stored responses purged count=%d", count)
            except DatabaseDown as error:
                log.warning("stored responses not purged reason=%s", error)
            await asyncio.sleep(_HOUR)

    def _has_grown(self, owner: Owner, size: int) -> bool:
        """Whether an owner's rows ought to be added up: at first, and for each 16th of the bound."""
        grown = self._growth.get(owner, self._bytes_per_owner) + size
        if len(self._growth) >= _OWNERS:
            self._growth.clear()
        due = grown > self._bytes_per_owner // 16
        self._growth[owner] = 0 if due else grown
        return due

    async def _shrink(self, connection: AsyncConnection, owner: Owner) -> None:
        """Delete an owner's longest unused rows until the rest is within the bound."""
        newer = func.sum(_row.size).over(order_by=(_row.used.desc(), _row.id))
        ranked = select(_row.id, newer.label("newer")).where(_of(owner)).subquery()
        beyond = select(ranked.c.id).where(ranked.c.newer > self._bytes_per_owner).scalar_subquery()
        await connection.execute(delete(responses).where(_row.id.in_(beyond)))


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(_row.tenant == owner[0], _row.owner == owner[1])


async def _links(connection: AsyncConnection, owner: Owner, response_id: str) -> Sequence[Any]:
    """(id, previous, length, size) of a chain, newest first, as far as it is there."""
    columns = (_row.id, _row.previous, _row.length, _row.size)
    end = select(*columns, literal(1).label("place")).where(_of(owner), _row.id == response_id)
    walk = end.cte("walk", recursive=True)
    before = select(*columns, walk.c.place + 1)
    walk = walk.union_all(before.where(_of(owner), _row.id == walk.c.previous, walk.c.place <= MAX_CHAIN))
    return (await connection.execute(select(walk).order_by(walk.c.place))).all()


async def _read(connection: AsyncConnection, owner: Owner, ids: Collection[str]) -> dict[str, StoredResponse]:
    columns = (_row.id, _row.previous, _row.length, _row.input, _row.body)
    rows = await connection.execute(select(*columns).where(_of(owner), _row.id.in_(ids)))
    return {
        row.id: StoredResponse(row.id, row.previous, row.length, from_json(row.input), from_json(row.body))
        for row in rows
    }


def _text(document: Any) -> str:
    return to_json(document, inf_nan_mode="null").decode()
