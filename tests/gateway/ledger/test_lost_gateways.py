"""Rows of lost gateways: what they cost without a report of their verifiers, and what reports then replace."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import insert

from edgedraft.wire import Spent
from gateway.ledger import Entry, Ledger, Prices, Progress
from gateway.ledger.lost_gateways import DEFAULT_PROMPT_TOKEN_NS
from gateway.ledger.report import usage_totals
from gateway.storage.database import Database
from gateway.storage.tables import usage
from tests.gateway.ledger.test_ledger import ANN, rows
from tests.gateway.ledger.test_reports import lose, offer, stats
from tests.support.generation_records import generation_record
from tests.support.waiting import until_true

LEASE = 60.0


async def lost_with(database: Database, **request: Any) -> tuple[Ledger, Entry, Ledger]:
    """A gateway whose lease is over, its running request, and the gateway that will find it."""
    lost, finder = (Ledger(database, Prices(), LEASE) for _ in range(2))
    await lost.open()
    await finder.open()
    entry = lost.new_entry(ANN, "req", "toy", "chat", True, request.get("prompt_tokens", 5), 2, time.monotonic())
    await entry.begin(request.get("progress", Progress))
    return lost, entry, finder


async def close(*ledgers: Ledger) -> None:
    for ledger in ledgers:
        await ledger.close()


async def test_a_row_of_a_lost_gateway_and_a_lost_verifier_costs_what_its_progress_says(database: Database) -> None:
    lost, _, finder = await lost_with(database, progress=lambda: Progress(40, {3: 2_000_000_000, 4: 500_000_000}))
    await lost._renew()

    async def written() -> bool:
        return (await rows(database))[0].output_tokens == 40

    await until_true(written)
    (row,) = await rows(database)
    assert (row.outcome, row.verifier_cost, row.estimated) == ("running", None, None), "it costs nothing before its end"
    await lose(lost, database)
    await finder._renew()
    (row,) = await rows(database)
    assert (row.outcome, row.estimated, row.output_tokens) == ("unfinished", True, 40)
    assert row.verifier_ns == row.baseline_ns == 2_500_000_000
    assert row.verifier_cost == row.baseline_cost == Prices().datacenter_cost(2_500_000_000)
    assert await Ledger(database, Prices()).month_spend(ANN.key_id) == row.verifier_cost
    (totals,) = await usage_totals(database)
    assert (totals.unfinished, totals.estimated, totals.verifier_ns) == (1, 1, 2_500_000_000)
    # One verifier is still there.
    await offer(finder, Spent(row.id, 3, 2.25))
    (row,) = await rows(database)
    assert (row.verifier_ns, row.estimated) == (2_750_000_000, True)
    await offer(finder, Spent(row.id, 4, 1.0))
    (row,) = await rows(database)
    assert (row.verifier_ns, row.estimated) == (3_250_000_000, False)
    await close(lost, finder)


@pytest.mark.parametrize("measured", [False, True])
async def test_a_row_without_progress_costs_its_prompt_until_a_verifier_reports(
    database: Database, measured: bool
) -> None:
    lost, _, finder = await lost_with(database, prompt_tokens=1000)
    token_ns = DEFAULT_PROMPT_TOKEN_NS
    if measured:
        token_ns = 30_000
        common = dict.fromkeys(("request_id", "key_id", "owner", "tenant", "endpoint", "gateway"), "x")
        ended = common | {"outcome": "finished", "stream": False, "choices": 1, "started": 1}
        sizes = [("toy", 100, 50, 4_500_000), ("toy", 40, 10, 1_500_000), ("other", 1, 1, 10**12)]
        columns = ("model", "prompt_tokens", "output_tokens", "verifier_ns")
        filled = [
            ended | {"id": str(number)} | dict(zip(columns, size, strict=True)) for number, size in enumerate(sizes)
        ]
        async with database.begin() as connection:
            await connection.execute(insert(usage), filled)
    await lose(lost, database)
    await finder._renew()
    (row,) = [row for row in await rows(database) if row.outcome == "unfinished"]
    assert (row.verifier_ns, row.estimated) == (1000 * token_ns, True)
    assert row.verifier_cost == Prices().datacenter_cost(1000 * token_ns)
    await offer(finder, Spent(row.id, 7, 0.001))
    (row,) = [row for row in await rows(database) if row.outcome == "unfinished"]
    assert (row.verifier_ns, row.baseline_ns, row.estimated) == (1_000_000, 1_000_000, False)
    assert row.verifier_cost == pytest.approx(Prices().datacenter_cost(1_000_000), abs=1)
    await offer(finder, Spent(row.id, 8, 0.002))
    (row,) = [row for row in await rows(database) if row.outcome == "unfinished"]
    assert row.verifier_ns == 3_000_000
    await close(lost, finder)


async def test_a_gateway_that_slept_puts_its_record_in_the_place_of_the_estimate(database: Database) -> None:
    slept, entry, finder = await lost_with(database, prompt_tokens=1000)
    await lose(slept, database)
    await finder._renew()
    await slept._renew()  # its progress comes too late for an unfinished row
    entry.end(generation_record(stats=[stats(1.5, attempt=1)], output_tokens=1))
    await close(slept, finder)
    (row,) = await rows(database)
    assert (row.outcome, row.verifier_ns, row.estimated) == ("finished", 1_500_000_000, False)
