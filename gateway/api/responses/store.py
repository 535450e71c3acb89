"""Stores responses in SQL, so that a later request can continue one by its id.

A row holds a request's input and its response, as JSON; a conversation is a chain of rows, each with the id of the one
before. Only the owner within a tenant can read its rows. Storage is bounded: a row by the request's own bounds, a chain
by length and bytes, an owner by bytes (least recently used rows are deleted first), everything by age.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
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
    """One response and its own request's input items. `length` counts the chain that ends with it."""

    id: str
    previous: str | None
    length: int
    input: list[Item]
    body: dict[str, Any]

    @property
    def items(self) -> list[Item]:
        """The items that it adds to a conversation."""
        return [*self.input, *self.body["output"]]


class NotStored(Exception):
    """A response, or an earlier one of its conversation, is not stored; the text is its id."""


class TooLarge(Exception):
    """A response exceeds MAX_RESPONSE_BYTES; the text has its size."""


class ChainTooLong(Exception):
    """A conversation exceeds a limit; the text says which."""


class ResponseStore:
    """The stored responses of one database. All methods raise DatabaseDown when the database fails."""

    def __init__(self, database: Database, days: int, bytes_per_owner: int) -> None:
        """A response is deleted after `days` without use. `bytes_per_owner` counts JSON and may be exceeded by 1/16."""
        self._database = database
        self._days = days
        self._bytes_per_owner = bytes_per_owner
        self._growth: dict[Owner, int] = {}  # bytes since an owner's rows were last added up

    async def save(self, owner: Owner, response: StoredResponse) -> None:
        """Stores a response and marks the earlier ones of its chain as used. Raises TooLarge."""
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
                # Rows are kept by days, so one update per day is enough.
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
        """Returns those that are stored, by id."""
        async with self._database.connect() as connection:
            return await _read(connection, owner, ids)

    async def chain(self, owner: Owner, response_id: str) -> list[StoredResponse]:
        """Returns the conversation that ends with this response, oldest first. Raises NotStored or ChainTooLong."""
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
        """Deletes a response. False if it is not stored. Later ones of its chain can no longer be continued."""
        async with self._database.begin() as connection:
            done = await connection.execute(delete(responses).where(_of(owner), _row.id == response_id))
        return done.rowcount == 1

    async def purge(self) -> int:
        """Deletes responses that are too old; returns their number."""
        too_old = _row.used < int(time.time()) - self._days * _DAY
        count = 0
        while True:
            some = select(_row.id).where(too_old).limit(_AT_ONCE).scalar_subquery()
            async with self._database.begin() as connection:
                done = await connection.execute(delete(responses).where(_row.id.in_(some)))
            count += done.rowcount
            if done.rowcount < _AT_ONCE:
                return count

    async def keep_purged(self, closing: asyncio.Event) -> None:
        """Purges every hour, until `closing` is set. Not to be cancelled: SQLite's driver does not support it."""
        while not closing.is_set():
            try:
                if count := await self.purge():
                    log.info("stored responses purged count=%d", count)
            except DatabaseDown as error:
                log.warning("stored responses not purged reason=%s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_HOUR):
                    await closing.wait()

    def _has_grown(self, owner: Owner, size: int) -> bool:
        """Whether to sum an owner's rows: at first, and after each growth by 1/16 of the bound."""
        grown = self._growth.get(owner, self._bytes_per_owner) + size
        if len(self._growth) >= _OWNERS:
            self._growth.clear()
        due = grown > self._bytes_per_owner // 16
        self._growth[owner] = 0 if due else grown
        return due

    async def _shrink(self, connection: AsyncConnection, owner: Owner) -> None:
        """Deletes an owner's least recently used rows until the rest is within the bound."""
        newer = func.sum(_row.size).over(order_by=(_row.used.desc(), _row.id))
        ranked = select(_row.id, newer.label("newer")).where(_of(owner)).subquery()
        beyond = select(ranked.c.id).where(ranked.c.newer > self._bytes_per_owner).scalar_subquery()
        await connection.execute(delete(responses).where(_row.id.in_(beyond)))


def _of(owner: Owner) -> ColumnElement[bool]:
    return and_(_row.tenant == owner[0], _row.owner == owner[1])


async def _links(connection: AsyncConnection, owner: Owner, response_id: str) -> Sequence[Any]:
    """(id, previous, length, size) of a chain, newest first, up to the first missing row."""
    columns = (_row.id, _row.previous, _row.length, _row.size)
    end = select(*columns, literal(1).label("place")).where(_of(owner), _row.id == response_id)
    walk = end.cte("walk", recursive=True)
    before = select(*columns, walk.c.place + 1)
    walk = walk.union_all(before.where(_of(owner), _row.id == walk.c.previous, walk.c.place <= MAX_CHAIN))
    return (await connection.execute(select(walk).order_by(walk.c.place))).all()


async def _read(connection: AsyncConnection, owner: Owner, ids: Collection[str]) -> dict[str, StoredResponse]:
    columns = (_row.id, _row.previous, _row.length, _row.input, _row.body)
    rows = await connection.execute(select(*columns).where(_of(owner), _row.id.in_(ids)))
    found = {}
    for row in rows:
        found[row.id] = StoredResponse(row.id, row.previous, row.length, from_json(row.input), from_json(row.body))
        await asyncio.sleep(0)  # a row may take milliseconds
    return found


def _text(document: Any) -> str:
    return to_json(document, inf_nan_mode="null").decode()
