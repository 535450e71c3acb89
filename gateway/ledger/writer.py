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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, insert, update

from gateway.ledger.attempts import RUNNING, complete_unfinished, encode_counted
from gateway.ledger.entry import Ended, Progress, Started, column_values
from gateway.ledger.prices import Prices
from gateway.storage.database import Database, DatabaseDown
from gateway.storage.tables import usage

log = logging.getLogger(__name__)

BATCH = 256  # starts, and ends, per transaction
MAX_PENDING_STARTS = 4096
MAX_PENDING_ENDS = 1 << 16  # more than can run at once: while the database is down, nothing begins
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0
FLUSH_SECONDS = 10.0

_start = insert(usage)
_end = update(usage).where(usage.c.id == bindparam("row"), usage.c.outcome == RUNNING)

_progress = (
    update(usage)
    .where(usage.c.id == bindparam("row"), usage.c.outcome == RUNNING)
    .values(output_tokens=bindparam("tokens"), attempts=bindparam("counted"))
)

OnWritten = Callable[[bool], object]
_Pending = tuple[str, Ended, OnWritten]


class LedgerWriter:
    """Use between open() and close(). `gateway` is this process's id in the ledger."""

    def __init__(self, database: Database, gateway: str, prices: Prices) -> None:
        self._database = database
        self._gateway = gateway
        self._prices = prices
        self._starts: deque[tuple[Started, asyncio.Future[None]]] = deque()
        self._ends: deque[_Pending] = deque()
        self._progress: Mapping[str, Progress] = {}
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
        for row, ended, on_written in self._ends:
            _log_lost_row(row, ended)
            on_written(False)
        self._ends.clear()

    async def start(self, started: Started) -> None:
        """Returns when the row is in the database. Raises DatabaseDown if it may not be."""
        if self._closing or len(self._starts) >= MAX_PENDING_STARTS:
            raise DatabaseDown("the ledger does not keep up")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._starts.append((started, written))
        self._wake.set()
        await written

    def end(self, row: str, ended: Ended, on_written: OnWritten) -> None:
        """Queues the end of a row and returns at once. `on_written` is called once, with whether it was written."""
        if len(self._ends) >= MAX_PENDING_ENDS:
            _log_lost_row(row, ended)
            on_written(False)
            return
        self._ends.append((row, ended, on_written))
        self._wake.set()

    def note_progress(self, rows: Mapping[str, Progress]) -> None:
        """Queues what running rows have come to. It is written by this task too, so that no two lock the same rows."""
        self._progress = rows
        self._wake.set()

    async def _run(self) -> None:
        pause = MIN_RETRY_SECONDS
        while True:
            await self._wake.wait()
            self._wake.clear()
            starts = [self._starts.popleft() for _ in range(min(BATCH, len(self._starts)))]
            ends = [self._ends.popleft() for _ in range(min(BATCH, len(self._ends)))]
            progress, self._progress = self._progress, {}
            try:
                await self._write([started for started, _ in starts], ends, progress)
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
                for _, _, on_written in ends:
                    on_written(True)
            if self._starts or self._ends:
                self._wake.set()
            elif self._closing:
                return

    async def _write_one_by_one(self, ends: Sequence[_Pending]) -> None:
        for end in ends:
            row, ended, on_written = end
            try:
                await self._write([], [end])
            except DatabaseDown:
                self._ends.append(end)
            except Exception:
                _log_lost_row(row, ended)
                on_written(False)
            else:
                on_written(True)

    async def _write(
        self, starts: Sequence[Started], ends: Sequence[_Pending], progress: Mapping[str, Progress] | None = None
    ) -> None:
        async with self._database.begin() as connection:
            if starts:
                rows = [column_values(started) | {"gateway": self._gateway, "outcome": RUNNING} for started in starts]
                await connection.execute(_start, rows)
            if progress:
                made = [
                    {"row": row, "tokens": now.output_tokens, "counted": encode_counted(now.counted)}
                    for row, now in progress.items()
                ]
                await connection.execute(_progress, made)
            if ends:
                values = {
                    row: column_values(ended) for row, ended, _ in reversed(ends)
                }  # the first end of a row counts
                written = await connection.execute(_end, [ended | {"row": row} for row, ended in values.items()])
                if written.rowcount != len(values):  # not all were running, or the driver cannot tell
                    await complete_unfinished(connection, values, self._prices)

    @staticmethod
    def _fail_starts(starts: Sequence[tuple[Started, asyncio.Future[None]]] | deque[Any], error: Exception) -> None:
        for _, written in starts:
            if not written.done():
                written.set_exception(error)


def _log_lost_row(row: str, ended: Ended) -> None:
    log.error("usage row not written row=%s", json.dumps({"id": row, **column_values(ended)}))
