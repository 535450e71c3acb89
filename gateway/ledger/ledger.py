"""The ledger of a running gateway: begins and completes rows, and knows what a key has spent this month.

Each gateway holds a lease, its row in `gateways`. Running rows of a gateway whose lease has expired are marked
unfinished, by any gateway at its start and at each renewal. A gateway that was only suspended still completes its rows.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from datetime import UTC, datetime

from sqlalchemy import delete, func, insert, select, update

from gateway.accounts import Principal
from gateway.ledger.baseline import PlainStepTimes, baseline_ns, nanoseconds, verifier_ns
from gateway.ledger.entry import Ended, Started
from gateway.ledger.prices import Prices
from gateway.ledger.writer import RUNNING, UNFINISHED, LedgerWriter
from gateway.records.generation import GenerationRecord
from gateway.storage.database import Database, DatabaseDown, now_ms
from gateway.storage.tables import gateways, usage

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
RENEWALS = 3  # per LEASE_SECONDS
SPEND_CACHE_SECONDS = 5.0  # how old the spend through other gateways may be
SPEND_CACHE_ENTRIES = 4096


class Ledger:
    """Use between open() and close()."""

    def __init__(self, database: Database, prices: Prices, lease_seconds: float = LEASE_SECONDS) -> None:
        self.prices = prices
        self._database = database
        self._lease = lease_seconds
        self._gateway = f"gw_{uuid.uuid4().hex[:16]}"
        self._writer = LedgerWriter(database, self._gateway)
        self._plain_times = PlainStepTimes()
        self._month_spend: dict[str, tuple[float, int]] = {}
        self._closing = asyncio.Event()
        self._lease_task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises DatabaseDown."""
        await self._renew()
        self._writer.open()
        self._lease_task = asyncio.create_task(self._keep_lease(), name="ledger lease")

    async def close(self) -> None:
        """Writes pending rows and releases the lease."""
        self._closing.set()
        if self._lease_task:
            await self._lease_task
        await self._writer.close()
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
        return Entry(self, self._writer, started)

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
            agent_ns=agent_ns,
            verifier_cost=prices.datacenter_cost(spent_ns),
            edge_cost=prices.edge_cost(agent_ns or 0),
            baseline_cost=prices.datacenter_cost(baseline),
            credit=prices.credit(accepted),
        )
        if cached := self._month_spend.get(started.key_id):
            self._month_spend[started.key_id] = cached[0], cached[1] + ended.verifier_cost
        return ended

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
        """Renews this gateway's lease and marks the running rows of gateways whose lease has expired."""
        gone = gateways.c.seen < now_ms() - round(self._lease * 1000)
        async with self._database.begin() as connection:
            mine = update(gateways).where(gateways.c.id == self._gateway).values(seen=now_ms())
            if not (await connection.execute(mine)).rowcount:
                row = insert(gateways).values(id=self._gateway, started=now_ms(), seen=now_ms())
                await connection.execute(row)
            await connection.execute(delete(gateways).where(gone))
            orphans = usage.c.gateway.not_in(select(gateways.c.id))
            left = await connection.execute(
                update(usage).where(usage.c.outcome == RUNNING, orphans).values(outcome=UNFINISHED)
            )
        if left.rowcount:
            log.warning("requests left unfinished by a lost gateway requests=%d", left.rowcount)


class Entry:
    """One request's row: begun before any work, ended exactly once."""

    def __init__(self, ledger: Ledger, writer: LedgerWriter, started: Started) -> None:
        self._ledger = ledger
        self._writer = writer
        self._started = started

    async def begin(self) -> None:
        """Returns when the row is in the database. Raises DatabaseDown."""
        await self._writer.start(self._started)

    def end(self, record: GenerationRecord) -> Ended:
        """Queues the second part and returns at once; if it cannot be written, it is logged."""
        ended = self._ledger.complete(self._started, record)
        self._writer.end(self._started.id, ended)
        return ended


def month_start_ms() -> int:
    """Start of this calendar month (UTC), in milliseconds since the epoch."""
    now = datetime.now(UTC)
    return int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp()) * 1000
