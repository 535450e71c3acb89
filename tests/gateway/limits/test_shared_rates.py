"""Limits over all replicas, in a real Valkey: atomic, and counted by each replica alone while it is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.accounts import KeyLimits
from gateway.limits.rate_limits import MemoryRateStore, RateStore, TakeResult, Use
from gateway.limits.shared_rates import PREFIX, SharedRateStore
from gateway.storage.shared_store import SharedStore
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

HOUR = 60  # a limit so low that nothing is refilled in a test: one a second


def rates_of(valkey: ValkeyServer) -> SharedRateStore:
    return SharedRateStore(SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry())))


async def take(rates: RateStore, bucket: str, amount: int, per_minute: int) -> TakeResult:
    (result,) = await rates.take([Use(bucket, amount, per_minute)])
    return result


@pytest.fixture
async def two(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[SharedRateStore]]:
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.05)
    both = [rates_of(valkey), rates_of(valkey)]
    yield both
    for rates in both:
        await rates.close()
        await rates._store.close()


async def test_two_replicas_never_grant_more_than_one_limit(two: list[SharedRateStore]) -> None:
    answers = await asyncio.gather(*(take(two[i % 2], "requests/a", 1, HOUR) for i in range(150)))
    granted = [answer for answer in answers if answer.granted]
    assert HOUR <= len(granted) <= HOUR + 3
    assert min(answer.remaining for answer in granted) == 0
    assert all(0 < answer.wait <= 1.1 for answer in answers if not answer.granted)
    assert (await take(two[0], "requests/b", 1, HOUR)).remaining == HOUR - 1


@pytest.mark.parametrize("kind", ["memory", "shared"])
async def test_both_stores_count_the_same(two: list[SharedRateStore], kind: str) -> None:
    """What is given back is there again, what was taken too much is owed, and a changed limit keeps what was used."""
    rates: RateStore = MemoryRateStore() if kind == "memory" else two[0]

    async def settled() -> None:
        await asyncio.gather(*two[0]._charging)

    taken = await take(rates, "tokens/a", 600, 1000)
    assert (taken.granted, taken.remaining) == (True, 400)
    assert taken.reset == pytest.approx(36, abs=1)
    refused = await take(rates, "tokens/a", 500, 1000)
    assert not refused.granted
    assert refused.wait == pytest.approx(6, abs=1)
    rates.charge([Use("tokens/a", -500, 1000)])
    await settled()
    assert 900 <= (await take(rates, "tokens/a", 0, 1000)).remaining <= 910
    rates.charge([Use("tokens/a", 2000, 1000)])
    await settled()
    owed = await take(rates, "tokens/a", 1, 1000)
    assert (owed.granted, owed.remaining) == (False, 0)
    assert owed.wait == pytest.approx(66, abs=1)
    await take(rates, "tokens/b", 100, 1000)
    assert 50 <= (await take(rates, "tokens/b", 0, 150)).remaining <= 52


@pytest.mark.parametrize("kind", ["memory", "shared"])
async def test_several_buckets_are_taken_from_all_at_once_or_not_at_all(two: list[SharedRateStore], kind: str) -> None:
    rates: RateStore = MemoryRateStore() if kind == "memory" else two[0]
    tokens, requests, work = Use("tokens/c", 80, 100), Use("requests/c", 1, HOUR), Use("work/c", 0, 1000)
    assert [result.granted for result in await rates.take([tokens, requests, work])] == [True] * 3
    refused = await rates.take([tokens, requests, work], charges=[replace(work, amount=2000)])
    assert [result.granted for result in refused] == [False, True, False], "and the charge counts"
    assert 58 <= refused[1].remaining <= 60, "nothing was taken, since one had not enough"
    assert refused[2].wait == pytest.approx(60, abs=1)
    few = await rates.take([replace(tokens, amount=15)], [replace(tokens, amount=-10)])
    assert few[0].granted
    assert 14 <= few[0].remaining <= 17, "20, and 10, less 15"


async def test_a_full_bucket_is_forgotten(two: list[SharedRateStore], valkey: ValkeyServer) -> None:
    await take(two[0], "requests/a", 1, 100_000)
    assert 900 < valkey.client.pttl("edgedraft:rate:requests/a") <= 1002
    await take(two[0], "requests/b", 30, 60)
    assert 30_000 < valkey.client.pttl("edgedraft:rate:requests/b") <= 31_000


async def test_without_the_store_each_replica_counts_alone(two: list[SharedRateStore], valkey: ValkeyServer) -> None:
    first, second = two
    assert (await take(first, "requests/a", 50, HOUR)).granted
    valkey.stop()
    for rates in two:
        assert (await take(rates, "requests/a", 50, HOUR)).granted
        assert not (await take(rates, "requests/a", 50, HOUR)).granted
        rates.charge([Use("requests/a", 5, HOUR)])
    valkey.start()
    await asyncio.sleep(0.1)
    assert (await take(first, "requests/a", 50, HOUR)).granted
    assert not (await take(second, "requests/a", 50, HOUR)).granted


async def test_a_store_that_hangs_holds_up_one_call_at_a_time(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.storage.shared_store.TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.05)
    rates = rates_of(valkey)
    await take(rates, "requests/a", 1, HOUR)
    assert valkey.process
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        await take(rates, "requests/a", 1, HOUR)
        await asyncio.sleep(0.1)
        trying = asyncio.create_task(take(rates, "requests/a", 1, HOUR))
        await asyncio.sleep(0)
        await asyncio.gather(*(take(rates, "requests/a", 1, HOUR) for _ in range(20)))
        assert not trying.done(), "the others waited as long as this one"
        await trying
    finally:
        valkey.process.send_signal(signal.SIGCONT)
        await rates.close()
        await rates._store.close()


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


async def test_a_request_runs_three_scripts(
    tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be admitted, to take its tokens, and at its end; with every limit, and with the work of its preparation."""
    scripts: list[list[str]] = []
    run = SharedStore.run

    async def count(self: SharedStore, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        if keys[0].startswith(PREFIX):
            scripts.append([key.removeprefix(PREFIX).split("/")[0] for key in keys])
        return await run(self, script, keys, arguments)

    monkeypatch.setattr(SharedStore, "run", count)
    shared = {"redis": valkey.url, "replica_secret": "replicas-of-the-tests", "replica_port": 0}
    async with running_gateway(tmp_path, verifier, **shared) as gateway:
        limits = KeyLimits(requests_per_minute=60, tokens_per_minute=100_000)
        key = await gateway.accounts.create("ann", "acme", ["inference"], limits=limits)
        async with gateway.http(key) as http:
            body = {"model": "toy", "messages": user("say hello"), "stream": True}
            response = await http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200
            await until(lambda: not gateway.state.admission._running)
            admitted, taken, settled = scripts
            assert (admitted, settled[-1]) == (["work", "requests", "tokens"], "tokens")
            assert taken in (["tokens"], ["work", "tokens", "tokens"]), "work of less than a millisecond waits"
            scripts.clear()
            assert (await http.post("/v1/chat/completions", json=body | {"n": "many"})).status_code == 400
            await until(lambda: not gateway.state.admission._running)
            assert len(scripts) <= 2
