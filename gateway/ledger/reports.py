"""Verifiers' reports of what attempts cost, from their arrival until they are in the database.

A report of a row that this gateway runs waits until the row's end is written: until then the verifier keeps it, so that
another gateway can add all of it if this one is lost. Reports of other rows are looked up; what is not confirmed is
offered again by the verifier.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from edgedraft.wire import Spent
from gateway.ledger.attempts import NEGLIGIBLE_NS, Attempt, Found, add_attempts, find_attempts, prune_attempts
from gateway.ledger.baseline import nanoseconds
from gateway.ledger.prices import Prices
from gateway.storage.database import Database, DatabaseDown

log = logging.getLogger(__name__)

BATCH = 256  # reports per query
MAX_QUEUED = 1 << 14
MAX_WAITING = 1 << 16  # reports of rows that run
RETRY_SECONDS = 2.0
PRUNE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Report:
    attempt: Attempt
    recorded: Callable[[], None]  # tells the verifier that it need not keep the report


class AttemptReports:
    """Use between open() and close(). `gateway` is this process's id in the ledger."""

    def __init__(self, database: Database, gateway: str, prices: Prices) -> None:
        self._database = database
        self._gateway = gateway
        self._prices = prices
        self._waiting: dict[str, dict[int, _Report]] = {}  # by row that this gateway runs
        self._num_waiting = 0
        self._queue: dict[tuple[str, int], _Report] = {}
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="verifiers' reports"),
            asyncio.create_task(self._keep_pruned(), name="old attempts"),
        ]

    async def close(self) -> None:
        """Writes what waits, if the database can be reached."""
        self._closing.set()
        self._wake.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # not cancelled: SQLite's driver does not support it

    def begin_row(self, row: str) -> None:
        """This gateway runs the row, until `end_row`."""
        self._waiting[row] = {}

    def end_row(self, row: str, written: bool) -> None:
        """The row's end is in the database, or will never be."""
        reports = self._waiting.pop(row, {})
        self._num_waiting -= len(reports)
        if written:
            for report in reports.values():
                self._settle(report)

    def take(self, spent: Spent, counted: float | None, recorded: Callable[[], None]) -> None:
        """A verifier's report. `counted` are the seconds that the row's record has of the attempt, None if unknown."""
        counted_ns = None if counted is None else nanoseconds(counted)
        report = _Report(Attempt(spent.request, spent.attempt, nanoseconds(spent.seconds), counted_ns), recorded)
        waiting = self._waiting.get(spent.request)
        if waiting is None:
            self._settle(report)
        elif spent.attempt in waiting:
            waiting[spent.attempt] = report
        elif self._num_waiting < MAX_WAITING:
            waiting[spent.attempt] = report
            self._num_waiting += 1

    def _settle(self, report: _Report) -> None:
        attempt = report.attempt
        if attempt.counted_ns is not None and attempt.verifier_ns - attempt.counted_ns < NEGLIGIBLE_NS:
            report.recorded()
        elif attempt.name in self._queue or len(self._queue) < MAX_QUEUED:
            self._queue[attempt.name] = report
            self._wake.set()

    async def _run(self) -> None:
        while self._queue or not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch = list(islice(self._queue.values(), BATCH))
                try:
                    await self._write(batch)
                except DatabaseDown as error:
                    log.error("verifiers' reports not written reports=%d reason=%s", len(self._queue), error)
                    if self._closing.is_set():
                        return
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                for report in batch:
                    if self._queue.get(report.attempt.name) is report:
                        del self._queue[report.attempt.name]

    async def _write(self, batch: Sequence[_Report]) -> None:
        """Add what can be added, and confirm what is in the database. Raises DatabaseDown."""
        try:
            found = await self._add(batch)
        except DatabaseDown:
            raise
        except Exception:  # one of them is invalid, or another gateway has added it meanwhile
            if len(batch) == 1:
                attempt = batch[0].attempt
                log.exception("verifier's report not written row=%r attempt=%d", attempt.row, attempt.number)
                return
            for report in batch:
                await self._write([report])
            return
        for report in batch:
            if found.get(report.attempt.name) == "recorded":
                report.recorded()

    async def _add(self, batch: Sequence[_Report]) -> dict[tuple[str, int], Found]:
        attempts = [report.attempt for report in batch]
        async with self._database.connect() as connection:
            found = await find_attempts(connection, attempts, self._gateway)
        addable = [attempt for attempt in attempts if found.get(attempt.name) == "addable"]
        if addable:
            async with self._database.begin() as connection:
                found |= await add_attempts(connection, addable, self._gateway, self._prices)
        return found

    async def _keep_pruned(self) -> None:
        while not self._closing.is_set():
            try:
                await prune_attempts(self._database)
            except DatabaseDown as error:
                log.warning("old attempts not pruned reason=%s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(PRUNE_SECONDS):
                    await self._closing.wait()
