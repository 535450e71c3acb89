"""Budgets over all replicas, in a real Valkey: reserved once, settled to the cost, and free when a replica goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.limits import shared_spend
from gateway.limits.shared_spend import PREFIX, SharedSpendReservations
from gateway.storage.shared_store import SharedStore
from tests.gateway.conftest import running_gateway
from tests.gateway.limits.test_limits import ask, key_with
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

BUDGET = 10_000_000  # nano-units; a request of 50 tokens may cost 3.5 million before anything was measured


@pytest.fixture
async def two(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[SharedSpendReservations]]:
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.05)
    both = [
        SharedSpendReservations(SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry())))
        for _ in range(2)
    ]
    yield both
    for reservations in both:
        await reservations.close()
        await reservations._store.close()


async def test_replicas_reserve_no_more_than_is_left(two: list[SharedSpendReservations]) -> None:
    big = 7 * 10**14  # in nano-units; doubles hold nine million of the currency exactly
    granted = await asyncio.gather(*(two[i % 2].reserve("key_1", 3 * big + 1, 10 * big) for i in range(40)))
    amounts = sorted(one.amount for one in granted if one)
    assert amounts == [big - 3, 3 * big + 1, 3 * big + 1, 3 * big + 1]
    assert await two[0].reserve("key_2", 5, 10)


async def test_a_settled_request_leaves_its_cost_until_all_have_read_it(
    two: list[SharedSpendReservations], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = two
    monkeypatch.setattr(shared_spend, "SETTLED_SECONDS", 0.4)
    first = await here.reserve("key_1", 80, 100)
    assert first
    here.settle(first, 30)
    await here.close()
    second = await there.reserve("key_1", 80, 100)
    assert second
    assert second.amount == 70, "the other has not read from the database that 30 are spent"
    there.settle(second, 0)
    await there.close()
    await asyncio.sleep(0.5)
    third = await here.reserve("key_1", 100, 100)
    assert third
    assert third.amount == 100


async def test_reservations_of_a_lost_replica_go_and_others_are_kept(
    two: list[SharedSpendReservations], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_spend, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(shared_spend, "RENEW_SECONDS", 0.2)
    here, lost = two
    assert await lost.reserve("key_1", 60, 100)
    assert await here.reserve("key_1", 40, 100)
    renewing = asyncio.create_task(here.run())
    async with asyncio.timeout(20):
        while not (more := await here.reserve("key_1", 100, 100)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert more.amount == 60
    await asyncio.sleep(3.5)
    assert await lost.reserve("key_1", 10, 100) is None, "those of the other are renewed"
    renewing.cancel()
    await asyncio.gather(renewing, return_exceptions=True)


async def test_without_the_store_each_replica_counts_alone(
    two: list[SharedSpendReservations], valkey: ValkeyServer
) -> None:
    here, there = two
    before = await here.reserve("key_1", 40, 100)
    assert before
    valkey.stop()
    for reservations, left in ((here, 60), (there, 100)):
        granted = await reservations.reserve("key_1", 100, 100)
        assert granted
        assert granted.amount == left
        assert await reservations.reserve("key_1", 100, 100) is None
    here.settle(before, 1)
    valkey.start()


async def test_a_budget_holds_over_two_gateways(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier
) -> None:
    verifier.forwards.clear()
    shared = {"redis": valkey.url, "replica_secret": "replicas-of-the-tests", "replica_port": 0}
    async with (
        running_gateway(tmp_path, verifier, **shared) as one,
        running_gateway(tmp_path, verifier, **shared) as other,
    ):
        key = await key_with(one, monthly_spend=BUDGET)
        async with one.http(key) as here, other.http(key) as there:
            asked = [asyncio.create_task(ask(http, max_tokens=50)) for http in [here, there] * 8]
            await until(lambda: sum(task.done() for task in asked) == 13)
            verifier.forwards.set()
            answers = await asyncio.gather(*asked)
        codes = Counter(answer.status_code for answer in answers)
        assert codes == {200: 3, 429: 13}, "two whole reservations, and what is left, at both together"
        assert len(verifier.opened) == 3
        await until(lambda: not one.state.replicas.reservations._held and not other.state.replicas.reservations._held)
        (name,) = valkey.client.scan_iter(f"{PREFIX}*")
        assert 0 < valkey.client.pttl(name) <= 60_000
