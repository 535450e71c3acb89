"""The ledger of a running gateway: begins and completes rows, and knows what a key has spent this month.

What a verifier computed beside that (prompts given up, hedged copies, attempts of lost gateways) is added when it
reports it. Each gateway holds a lease, its row in `gateways`; with each renewal it writes what its running rows have
come to. Those of a gateway whose lease has expired are marked unfinished, with an estimate of what they cost, by any
gateway at its start and at each renewal. One that was only suspended completes its rows.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import delete, func, insert, select, update

from edgedraft.wire import Spent
from gateway.accounts import Principal
from gateway.ledger.attempts import encode_counted
from gateway.ledger.baseline import PlainStepTimes, baseline_ns, counted_ns, nanoseconds, verifier_ns
from gateway.ledger.entry import Ended, Progress, Started
from gateway.ledger.lost_gateways import DEFAULT_PROMPT_TOKEN_NS, end_lost_rows
from gateway.ledger.prices import Prices
from gateway.ledger.reports import AttemptReports
from gateway.ledger.writer import LedgerWriter
from gateway.records.generation import GenerationRecord
from gateway.storage.database import Database, DatabaseDown, now_ms
from gateway.storage.tables import gateways, usage

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
RENEWALS = 3  # per LEASE_SECONDS
SPEND_CACHE_SECONDS = 5.0  # how old the spend through other gateways may be
SPEND_CACHE_ENTRIES = 4096
DEFAULT_TOKEN_NS = 50_000_000  # verifier time, before any was measured
CAUTION = 2.0  # a step takes so many times the mean at most


class Ledger:
    """Use between open() and close()."""

    def __init__(self, database: Database, prices: Prices, lease_seconds: float = LEASE_SECONDS) -> None:
        self.prices = prices
        self._database = database
        self._lease = lease_seconds
        self._gateway = f"gw_{uuid.uuid4().hex[:16]}"
        self._writer = LedgerWriter(database, self._gateway, prices)
        self._reports = AttemptReports(database, self._gateway, prices)
        self._plain_times = PlainStepTimes()
        self._running: dict[str, Callable[[], Progress]] = {}
        self._month_spend: dict[str, tuple[float, int]] = {}
        self._closing = asyncio.Event()
        self._lease_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises DatabaseDown."""
        await self._renew()
        self._writer.open()
        self._lease_task = asyncio.create_task(self._keep_lease(), name="ledger lease")
        self._reports.open()

    async def close(self) -> None:
        """Writes pending rows and releases the lease."""
        self._closing.set()
        if self._lease_task:
            await self._lease_task
        await self._writer.close()
        await self._reports.close()
        try:
            async with self._database.begin() as connection:
                await connection.execute(delete(gateways).where(gateways.c.id == self._gateway))
        except DatabaseDown as error:
            log.warning("ledger lease not given back reason=%s", error)

    def new_entry(
        self,
        principal: Principal,
        request_id: str,
        model: str,
        endpoint: str,
        stream: bool,
        prompt_tokens: int,
        choices: int,
        began_at: float,
    ) -> Entry:
        """Returns a request's row, not yet written. `began_at` is when the request arrived, by time.monotonic()."""
        started = Started(
            id=f"use_{uuid.uuid4().hex}",
            request_id=request_id,
            key_id=principal.key_id,
            owner=principal.owner,
            tenant=principal.tenant,
            model=model,
            endpoint=endpoint,
            stream=stream,
            started=time.time_ns() // 10**6 - round((time.monotonic() - began_at) * 1000),
            prompt_tokens=prompt_tokens,
            choices=choices,
        )
        return Entry(self, self._writer, self._reports, self._running, started)

    def complete(self, started: Started, record: GenerationRecord) -> Ended:
        """Computes the second part of a row."""
        choices, accepted = record.stats, sum(stats.accepted for stats in record.stats)
        prices, spent_ns = self.prices, verifier_ns(choices)
        baseline = baseline_ns(choices, started.model, self._plain_times)
        drafter = max((stats for stats in choices if stats.agent), key=lambda stats: stats.accepted, default=None)
        agent_ns = sum(nanoseconds(stats.agent_seconds) for stats in choices) if drafter else None
        first_text = record.time_to_first_text
        ended = Ended(
            outcome=record.outcome,
            ended=time.time_ns() // 10**6,
            first_token=None if first_text is None else started.started + round(first_text * 1000),
            cached_tokens=record.cached_tokens,
            output_tokens=record.output_tokens,
            drafted=sum(stats.drafted for stats in choices),
            accepted=accepted,
            verifier_accepted=sum(stats.own_accepted for stats in choices),
            mode=record.mode,
            verifier_ns=spent_ns,
            baseline_ns=baseline,
            agent=drafter.agent if drafter else None,
            agent_tenant=drafter.agent_owner[0] if drafter else None,
            agent_owner=drafter.agent_owner[1] if drafter else None,
            agent_device=drafter.agent_device if drafter else None,
            agent_ns=agent_ns,
            verifier_cost=prices.datacenter_cost(spent_ns),
            edge_cost=prices.edge_cost(agent_ns or 0),
            baseline_cost=prices.datacenter_cost(baseline),
            credit=prices.credit(accepted),
            attempts=encode_counted(counted_ns(choices)),
        )
        if cached := self._month_spend.get(started.key_id):
            self._month_spend[started.key_id] = cached[0], cached[1] + ended.verifier_cost
        return ended

    def record_spent(self, spent: Spent, counted: float | None, recorded: Callable[[], None]) -> None:
        """Adds to a request's row what a verifier computed for it besides what is in its record, once per attempt.

        `counted` are the seconds that are in the record, None for an attempt that this gateway does not know.
        `recorded` is called when all of it is in the database; if that cannot be, the verifier keeps the report.
        """
        self._reports.take(spent, counted, recorded)

    def greatest_cost(self, model: str, prompt_tokens: int, output_tokens: int) -> int:
        """Datacenter cost of a request at most, in nano-units, from measured steps or cautious defaults."""
        plain = self._plain_times.mean_ns(model)
        per_token = DEFAULT_TOKEN_NS if plain is None else round(plain * CAUTION)
        return max(1, self.prices.datacenter_cost(prompt_tokens * DEFAULT_PROMPT_TOKEN_NS + output_tokens * per_token))

    async def month_spend(self, key_id: str) -> int:
        """Datacenter cost of a key's requests of this calendar month (UTC), in nano-units.

        Costs of other gateways are up to SPEND_CACHE_SECONDS old; a running request is added at its end. Raises
        DatabaseDown.
        """
        now = time.monotonic()
        cached = self._month_spend.get(key_id)
        if cached and cached[0] > now:
            return cached[1]
        query = select(func.coalesce(func.sum(usage.c.verifier_cost), 0)).where(
            usage.c.key_id == key_id, usage.c.started >= month_start_ms()
        )
        async with self._database.connect() as connection:
            spent = int((await connection.execute(query)).scalar_one())
        if len(self._month_spend) >= SPEND_CACHE_ENTRIES:
            self._month_spend.clear()
        self._month_spend[key_id] = now + SPEND_CACHE_SECONDS, spent
        return spent

    async def _keep_lease(self) -> None:
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(self._lease / RENEWALS):
                    await self._closing.wait()
            except TimeoutError:
                try:
                    await self._renew()
                except DatabaseDown as error:
                    log.warning("ledger lease not renewed reason=%s", error)

    async def _renew(self) -> None:
        """Renews this gateway's lease, writes its progress, and ends the running rows of gateways that are lost."""
        async with self._database.begin() as connection:
            mine = update(gateways).where(gateways.c.id == self._gateway).values(seen=now_ms())
            if not (await connection.execute(mine)).rowcount:
                row = insert(gateways).values(id=self._gateway, started=now_ms(), seen=now_ms())
                await connection.execute(row)
            left = await end_lost_rows(connection, self._lease, self.prices)
        if left:
            log.warning("requests left unfinished by a lost gateway requests=%d", left)
        progress = {row: progress() for row, progress in self._running.items()}
        self._writer.note_progress({row: now for row, now in progress.items() if now.counted})


class Entry:
    """One request's row: begun before any work, ended exactly once."""

    def __init__(
        self,
        ledger: Ledger,
        writer: LedgerWriter,
        reports: AttemptReports,
        running: dict[str, Callable[[], Progress]],
        started: Started,
    ) -> None:
        self._ledger = ledger
        self._writer = writer
        self._reports = reports
        self._running = running
        self._started = started

    @property
    def id(self) -> str:
        """The row's id, known before it is written."""
        return self._started.id

    async def begin(self, progress: Callable[[], Progress] = Progress) -> None:
        """Returns when the row is in the database. Raises DatabaseDown. In either case `end` must be called.

        `progress` is called every few seconds until then.
        """
        self._reports.begin_row(self.id)
        self._running[self.id] = progress
        await self._writer.start(self._started)

    def end(self, record: GenerationRecord) -> Ended:
        """Queues the second part and returns at once; if it cannot be written, it is logged."""
        self._running.pop(self.id, None)
        ended = self._ledger.complete(self._started, record)
        self._writer.end(self.id, ended, partial(self._reports.end_row, self.id))
        return ended


def month_start_ms() -> int:
    """Start of this calendar month (UTC), in milliseconds since the epoch."""
    now = datetime.now(UTC)
    return int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp()) * 1000
