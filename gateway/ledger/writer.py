"""Writes the ledger from one task: rows that arrive during a transaction are batched into the next one.

Callers wait for a start, not for an end. While the database is down, starts fail at once, so no work begins that cannot
be billed; ends are kept and retried. Ends that cannot be written before shutdown are logged, as one line of JSON each.
An end updates its row only if that has no final outcome yet, so writing it twice is harmless.
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

BATCH = 256  # starts, and ends, per transaction
MAX_PENDING_STARTS = 4096
MAX_PENDING_ENDS = 1 << 16  # more than can run at once: while the database is down, nothing begins
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
FLUSH_SECONDS = 10.0

RUNNING, UNFINISHED = "running", "unfinished"

_start = insert(usage)
_open = or_(usage.c.outcome == RUNNING, usage.c.outcome == UNFINISHED)  # not IN, which executemany does not support
_end = update(usage).where(usage.c.id == bindparam("row"), _open)


class LedgerWriter:
    """Use between open() and close(). `gateway` is this process's id in the ledger."""

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
        """Writes pending rows. What is not written after FLUSH_SECONDS and one more try is logged."""
        self._closing = True
        self._give_up_at = time.monotonic() + FLUSH_SECONDS
        self._wake.set()
        if self._task:
            await self._task  # not cancelled: SQLite's driver does not support it
        self._fail_starts(self._starts, DatabaseDown("the gateway is shutting down"))
        for row, ended in self._ends:
            _log_lost_row(row, ended)
        self._ends.clear()

    async def start(self, started: Started) -> None:
        """Returns when the row is in the database. Raises DatabaseDown if it may not be."""
        if self._closing or len(self._starts) >= MAX_PENDING_STARTS:
            raise DatabaseDown("the ledger does not keep up")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starts.append((started, written))
        self._wake.set()
        await written

    def end(self, row: str, ended: Ended) -> None:
        """Queues the end of a row and returns at once."""
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
                # One row is invalid: write the others without it.
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
