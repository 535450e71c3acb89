"""The one task that writes the ledger: what came in while it wrote goes into the next transaction.

A start is waited for, an end is not. While the database is away starts fail at once, so no work begins that could not
be billed, and ends are kept and tried again; what cannot be written by the end of the process goes into the log as one
line of JSON each. An end changes its row only until it has one of the final outcomes, so writing it twice is harmless.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import bindparam, insert, or_, update

from gateway.ledger.entry import Ended, Started
from gateway.storage.database import Database, DatabaseDown
from gateway.storage.tables import usage

log = logging.getLogger(__name__)

BATCH = 256  # rows of one transaction, of each kind
MAX_PENDING_STARTS = 4096
MAX_PENDING_ENDS = 1 << 16  # more than can be running: while the database is away, nothing begins
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0  # between two tries
FLUSH_SECONDS = 10.0

RUNNING, UNFINISHED = "running", "unfinished"

_start = insert(usage)
_open = or_(usage.c.outcome == RUNNING, usage.c.outcome == UNFINISHED)  # an IN could not be executed for many rows
_end = update(usage).where(usage.c.id == bindparam("row"), _open)


class LedgerWriter:
    """Use between open() and close(). `gateway` is this process's name in the ledger."""

    def __init__(self, database: Database, gateway: str) -> None:
        self._database = database
        self._gateway = gateway
        self._starts: deque[tuple[Started, asyncio.Future[None]]] = deque()
        self._ends: deque[tuple[str, Ended]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._give_up_at = math.inf

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="usage ledger")

    async def close(self) -> None:
        """Write what is left; what cannot be written in FLUSH_SECONDS and one try more is logged."""
        self._closing = True
        self._give_up_at = time.monotonic() + FLUSH_SECONDS
        self._wake.set()
        if self._task:
            await self._task  # not cancelled: SQLite's driver would not survive it
        self._fail_starts(self._starts, DatabaseDown("the gateway is shutting down"))
        for row, ended in self._ends:
            _log_lost_row(row, ended)
        self._ends.clear()

    async def start(self, started: Started) -> None:
        """Returns when the row is in the database. Raises DatabaseDown when it may not be."""
        if self._closing or len(self._starts) >= MAX_PENDING_STARTS:
            raise DatabaseDown("the ledger does not keep up")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starts.append((started, written))
        self._wake.set()
        await written

    def end(self, row: str, ended: Ended) -> None:
        """Never waits."""
        if len(self._ends) >= MAX_PENDING_ENDS:
            _log_lost_row(row, ended)
            return
        self._ends.append((row, ended))
        self._wake.set()

    async def _run(self) -> None:
        pause = MIN_RETRY_SECONDS
        while True:
            await self._wake.wait()
            self._wake.clear()
            starts = [self._starts.popleft() for _ in range(min(BATCH, len(self._starts)))]
            ends = [self._ends.popleft() for _ in range(min(BATCH, len(self._ends)))]
            try:
                await self._write([started for started, _ in starts], ends)
            except DatabaseDown as error:
                log.error("ledger not written starts=%d ends=%d reason=%s", len(starts), len(ends), error)
                self._fail_starts(starts, DatabaseDown(str(error)))
                self._ends.extendleft(reversed(ends))
                if time.monotonic() > self._give_up_at:
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)
            except Exception as error:
                # Not the database's fault but that of one row: the others must not suffer for it.
                log.exception("ledger not written")
                self._fail_starts(starts, DatabaseDown(str(error)))
                await self._write_one_by_one(ends)
            else:
                pause = MIN_RETRY_SECONDS
                for _, written in starts:
                    if not written.done():
                        written.set_result(None)
            if self._starts or self._ends:
                self._wake.set()
            elif self._closing:
                return

    async def _write_one_by_one(self, ends: Sequence[tuple[str, Ended]]) -> None:
        for row, ended in ends:
            try:
                await self._write([], [(row, ended)])
            except DatabaseDown:
                self._ends.append((row, ended))
            except Exception:
                _log_lost_row(row, ended)

    async def _write(self, starts: Sequence[Started], ends: Sequence[tuple[str, Ended]]) -> None:
        async with self._database.begin() as connection:
            if starts:
                rows = [asdict(started) | {"gateway": self._gateway, "outcome": RUNNING} for started in starts]
                await connection.execute(_start, rows)
            if ends:
                await connection.execute(_end, [asdict(ended) | {"row": row} for row, ended in ends])

    @staticmethod
    def _fail_starts(starts: Sequence[tuple[Started, asyncio.Future[None]]] | deque[Any], error: Exception) -> None:
        for _, written in starts:
            if not written.done():
                written.set_exception(error)


def _log_lost_row(row: str, ended: Ended) -> None:
    log.error("usage row not written row=%s", json.dumps({"id": row, **asdict(ended)}))
