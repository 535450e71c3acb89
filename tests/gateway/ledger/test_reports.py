"""Verifiers' reports of attempts: added to the right row, once, whoever hears of them."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import select

from edgedraft.wire import Commit, Spent
from gateway.ledger import Entry, Ledger, Prices
from gateway.ledger.attempts import KEPT_MS
from gateway.records.speculation_stats import SpeculationStats
from gateway.storage.database import Database
from gateway.storage.tables import gateways, usage, usage_attempts
from tests.gateway.ledger.test_ledger import ANN, ended, rows
from tests.support.generation_records import generation_record
from tests.support.waiting import until


def stats(seconds: float, attempt: int = 1) -> SpeculationStats:
    made = SpeculationStats()
    made.add(Commit(1, 0, [1], seconds=seconds), False, attempt)
    return made


async def begun(ledger: Ledger) -> Entry:
    entry = ledger.new_entry(ANN, "req", "toy", "chat", True, 5, 1, time.monotonic())
    await entry.begin()
    return entry


async def seconds(database: Database) -> float:
    (row,) = await rows(database)
    return (row.verifier_ns or 0) / 1e9


async def lose(ledger: Ledger, database: Database) -> None:
    """Its lease expires."""
    async with database.begin() as connection:
        await connection.execute(gateways.update().where(gateways.c.id == ledger._gateway).values(seen=1))


async def refused(ledger: Ledger, spent: Spent) -> bool:
    """Whether a report is not confirmed by the time a later one is."""
    confirmed: list[str] = []
    marker = await begun(ledger)
    ledger.record_spent(spent, None, lambda: confirmed.append("report"))
    marker.end(generation_record(stats=[stats(0.0)]))
    ledger.record_spent(Spent(marker.id, 1, 1.0), 0.0, lambda: confirmed.append("marker"))
    await until(lambda: "marker" in confirmed)
    async with ledger._database.begin() as connection:
        await connection.execute(usage.delete().where(usage.c.id == marker.id))
    return confirmed == ["marker"]


async def offer(ledger: Ledger, spent: Spent) -> None:
    """Offer a report of an attempt that the gateway does not know until it is confirmed, as a verifier does."""
    confirmed: list[int] = []
    async with asyncio.timeout(60):
        while not confirmed:
            ledger.record_spent(spent, None, lambda: confirmed.append(1))
            await asyncio.sleep(0.05)


async def test_reports_of_a_running_row_wait_for_its_record(database: Database) -> None:
    """Until then the verifier keeps them: the gateway may be killed, and its counts with it."""
    ledger = Ledger(database, Prices())
    await ledger.open()
    entry = await begun(ledger)
    recorded: list[int] = []
    for _ in range(2):
        ledger.record_spent(Spent(entry.id, 1, 2.0), 0.0, lambda: recorded.append(1))
    ledger.record_spent(Spent(entry.id, 2, 3.0), 3.0, lambda: recorded.append(2))
    assert await refused(ledger, Spent("use_unknown", 1, 1.0))
    assert not recorded
    entry.end(generation_record(stats=[stats(3.0, attempt=2)], output_tokens=1))
    await until(lambda: sorted(recorded) == [1, 2])
    for _ in range(3):
        ledger.record_spent(Spent(entry.id, 3, 0.5), 0.0, lambda: recorded.append(3))
    await until(lambda: 3 in recorded)
    await ledger.close()
    assert await seconds(database) == 5.5, "2 of a lost attempt, 3 of commits, 0.5 after the end, each once"
    (row,) = await rows(database)
    assert row.verifier_cost == pytest.approx(Prices().datacenter_cost(5_500_000_000), abs=2)
    assert row.baseline_ns == row.verifier_ns


async def test_a_killed_gateways_row_gets_all_that_verifiers_report(database: Database) -> None:
    """What commits carried too: no record was written."""
    killed = Ledger(database, Prices(), lease_seconds=60)
    await killed.open()
    entry = await begun(killed)
    killed.record_spent(Spent(entry.id, 1, 2.0), 1.5, lambda: pytest.fail("it is in no record yet"))
    other = Ledger(database, Prices(), lease_seconds=0.5)
    await other.open()
    assert await refused(other, Spent(entry.id, 1, 2.0)), "it runs, as far as anybody knows"
    await lose(killed, database)
    await offer(other, Spent(entry.id, 1, 2.0))
    await offer(other, Spent(entry.id, 2, 1.0))
    await offer(other, Spent(entry.id, 2, 1.0))
    (row,) = await rows(database)
    assert (row.outcome, row.verifier_ns) == ("unfinished", 3_000_000_000)
    await killed.close()
    await other.close()


async def test_a_gateway_that_slept_adds_what_is_in_no_report(database: Database) -> None:
    slept = Ledger(database, Prices(), lease_seconds=60)
    await slept.open()
    entry = await begun(slept)
    other = Ledger(database, Prices(), lease_seconds=0.5)
    await other.open()
    await lose(slept, database)
    await offer(other, Spent(entry.id, 1, 2.0))
    await offer(other, Spent(entry.id, 2, 1.0))
    entry.end(generation_record(stats=[stats(1.5, attempt=1), stats(1.0, attempt=3)], output_tokens=1))
    recorded: list[int] = []
    slept.record_spent(Spent(entry.id, 1, 2.0), 1.5, lambda: recorded.append(1))
    slept.record_spent(Spent(entry.id, 3, 1.25), 1.0, lambda: recorded.append(3))
    await until(lambda: sorted(recorded) == [1, 3])
    await slept.close()
    await other.close()
    assert await seconds(database) == 2.0 + 1.0 + 1.25


async def test_a_completed_row_is_left_to_its_gateway_while_that_lives(database: Database) -> None:
    """Then another adds what the record does not have."""
    first, second = Ledger(database, Prices()), Ledger(database, Prices())
    await first.open()
    await second.open()
    entry = await begun(first)
    entry.end(generation_record(stats=[stats(3.0, attempt=7)], output_tokens=1))
    await ended(database)
    assert await refused(second, Spent(entry.id, 7, 3.5))
    assert await seconds(database) == 3.0
    await first.close()
    await offer(second, Spent(entry.id, 7, 3.5))
    await offer(second, Spent(entry.id, 8, 0.25))
    await offer(second, Spent(entry.id, 7, 3.5))
    assert await seconds(database) == 3.75
    assert await refused(second, Spent("use_unknown", 1, 2.0)), "it may be another database's"
    await second.close()


async def test_a_row_of_an_earlier_version_is_left_alone(database: Database) -> None:
    """It does not tell what its record has counted."""
    first, second = Ledger(database, Prices()), Ledger(database, Prices())
    await first.open()
    entry = await begun(first)
    entry.end(generation_record(stats=[stats(3.0)], output_tokens=1))
    await first.close()
    async with database.begin() as connection:
        await connection.execute(usage.update().values(attempts=None))
    await second.open()
    await offer(second, Spent(entry.id, 1, 3.5))
    assert await seconds(database) == 3.0
    await second.close()


async def test_two_gateways_add_a_report_once(database: Database) -> None:
    lost = Ledger(database, Prices())
    await lost.open()
    entry = await begun(lost)
    others = [Ledger(database, Prices(), lease_seconds=0.5) for _ in range(3)]
    for other in others:
        await other.open()
    await lose(lost, database)
    await asyncio.gather(*(offer(other, Spent(entry.id, n, 1.0)) for n in range(1, 5) for other in others))
    assert await seconds(database) == 4.0
    for ledger in [lost, *others]:
        await ledger.close()


async def test_old_attempts_are_forgotten(database: Database) -> None:
    ledger = Ledger(database, Prices())
    await ledger.open()
    entry = await begun(ledger)
    entry.end(generation_record(stats=[stats(3.0)], output_tokens=1))
    await ended(database)
    await offer(ledger, Spent(entry.id, 2, 1.0))
    await offer(ledger, Spent(entry.id, 3, 1.0))
    async with database.begin() as connection:
        old = usage_attempts.c.recorded - KEPT_MS - 1
        await connection.execute(usage_attempts.update().where(usage_attempts.c.attempt == 2).values(recorded=old))
    await ledger.close()
    again = Ledger(database, Prices())
    await again.open()

    async def kept() -> list[int]:
        async with database.connect() as connection:
            return list((await connection.execute(select(usage_attempts.c.attempt))).scalars())

    async with asyncio.timeout(60):
        while await kept() != [3]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await again.close()


async def test_a_report_that_the_database_rejects_stops_no_request(database: Database) -> None:
    """PostgreSQL takes no NUL in a text. The report is a verifier's, the requests after it are clients'."""
    ledger = Ledger(database, Prices())
    await ledger.open()
    ledger.record_spent(Spent("use_a\0b", 1, 1.0), None, lambda: None)
    for _ in range(3):
        entry = await begun(ledger)
        entry.end(generation_record(stats=[stats(1.0)], output_tokens=1))
    await ledger.close()
    assert [row.outcome for row in await rows(database)] == ["finished"] * 3
