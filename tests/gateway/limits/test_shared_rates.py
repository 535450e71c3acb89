"""Limits over all replicas, in a real Valkey: atomic, and counted by each replica alone while it is away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.accounts import KeyLimits
from gateway.limits.rate_limits import MemoryRateStore, RateStore
from gateway.limits.shared_rates import SharedRateStore
from gateway.storage.shared_store import SharedStore
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import ValkeyServer

HOUR = 60  # a limit so low that nothing is refilled in a test: one a second


def rates_of(valkey: ValkeyServer) -> SharedRateStore:
    return SharedRateStore(SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry())))


@pytest.fixture
async def two(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[SharedRateStore]]:
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.05)
    both = [rates_of(valkey), rates_of(valkey)]
    yield both
    for rates in both:
        await rates.close()
        await rates._store.close()


async def test_two_replicas_never_grant_more_than_one_limit(two: list[SharedRateStore]) -> None:
    answers = await asyncio.gather(*(two[i % 2].take("requests/a", 1, HOUR) for i in range(150)))
    granted = [answer for answer in answers if answer.granted]
    assert HOUR <= len(granted) <= HOUR + 3
    assert min(answer.remaining for answer in granted) == 0
    assert all(0 < answer.wait <= 1.1 for answer in answers if not answer.granted)
    assert (await two[0].take("requests/b", 1, HOUR)).remaining == HOUR - 1


@pytest.mark.parametrize("kind", ["memory", "shared"])
async def test_both_stores_count_the_same(two: list[SharedRateStore], kind: str) -> None:
    """What is given back is there again, what was taken too much is owed, and a changed limit keeps what was used."""
    rates: RateStore = MemoryRateStore() if kind == "memory" else two[0]

    async def settled() -> None:
        await asyncio.gather(*two[0]._returning)

    taken = await rates.take("tokens/a", 600, 1000)
    assert (taken.granted, taken.remaining) == (True, 400)
    assert taken.reset == pytest.approx(36, abs=1)
    refused = await rates.take("tokens/a", 500, 1000)
    assert not refused.granted
    assert refused.wait == pytest.approx(6, abs=1)
    rates.give_back("tokens/a", 500, 1000)
    await settled()
    assert 900 <= (await rates.take("tokens/a", 0, 1000)).remaining <= 910
    rates.give_back("tokens/a", -2000, 1000)
    await settled()
    owed = await rates.take("tokens/a", 1, 1000)
    assert (owed.granted, owed.remaining) == (False, 0)
    assert owed.wait == pytest.approx(66, abs=1)
    await rates.take("tokens/b", 100, 1000)
    assert 50 <= (await rates.take("tokens/b", 0, 150)).remaining <= 52


async def test_a_full_bucket_is_forgotten(two: list[SharedRateStore], valkey: ValkeyServer) -> None:
    await two[0].take("requests/a", 1, 100_000)
    assert 900 < valkey.client.pttl("edgedraft:rate:requests/a") <= 1002
    await two[0].take("requests/b", 30, 60)
    assert 30_000 < valkey.client.pttl("edgedraft:rate:requests/b") <= 31_000


async def test_without_the_store_each_replica_counts_alone(two: list[SharedRateStore], valkey: ValkeyServer) -> None:
    first, second = two
    assert (await first.take("requests/a", 50, HOUR)).granted
    valkey.stop()
    for rates in two:
        assert (await rates.take("requests/a", 50, HOUR)).granted
        assert not (await rates.take("requests/a", 50, HOUR)).granted
        rates.give_back("requests/a", -5, HOUR)
    valkey.start()
    await asyncio.sleep(0.1)
    assert (await first.take("requests/a", 50, HOUR)).granted
    assert not (await second.take("requests/a", 50, HOUR)).granted


async def test_a_store_that_hangs_holds_up_one_call_at_a_time(two: list[SharedRateStore], valkey: ValkeyServer) -> None:
    rates = two[0]
    await rates.take("requests/a", 1, HOUR)
    assert valkey.process
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        await rates.take("requests/a", 1, HOUR)
        await asyncio.sleep(0.1)
        began = time.monotonic()
        trying = asyncio.create_task(rates.take("requests/a", 1, HOUR))
        await asyncio.sleep(0)
        await asyncio.gather(*(rates.take("requests/a", 1, HOUR) for _ in range(20)))
        assert time.monotonic() - began < 0.5
        await trying
    finally:
        valkey.process.send_signal(signal.SIGCONT)


async def test_a_keys_limit_holds_over_two_gateways(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier
) -> None:
    shared = {"redis": valkey.url, "replica_secret": "replicas-of-the-tests", "replica_port": 0}
    async with (
        running_gateway(tmp_path, verifier, **shared) as one,
        running_gateway(tmp_path, verifier, **shared) as other,
    ):
        key = await one.accounts.create("ann", "acme", ["inference"], limits=KeyLimits(requests_per_minute=6))

        async def ask(http: httpx.AsyncClient) -> int:
            body = {"model": "toy", "messages": user("say hello")}
            return (await http.post("/v1/chat/completions", json=body)).status_code

        async with one.http(key) as here, other.http(key) as there:
            codes = await asyncio.gather(*(ask(http) for http in [here, there] * 8))
        assert set(codes) == {200, 429}
        assert codes.count(200) in (6, 7)
