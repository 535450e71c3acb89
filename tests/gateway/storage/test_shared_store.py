"""The shared store on a real Valkey: results, failures, and the backoff after one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.storage.shared_store import SharedStore, StoreDown
from tests.support.valkey_server import ValkeyServer

COUNT = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@pytest.fixture
def up() -> Gauge:
    return Gauge("up", "up", registry=CollectorRegistry())


@pytest.fixture
async def store(valkey: ValkeyServer, up: Gauge, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharedStore]:
    monkeypatch.setattr("gateway.storage.shared_store.BACKOFF_SECONDS", 0.2)
    store = SharedStore(valkey.url, up)
    yield store
    await store.close()


async def test_a_script_gets_keys_and_arguments_and_returns_its_result(store: SharedStore, up: Gauge) -> None:
    results = await asyncio.gather(*(store.run(COUNT, ["count"], [2]) for _ in range(50)))
    assert sorted(results) == list(range(2, 102, 2))
    assert up._value.get() == 1


async def test_a_connection_that_the_server_closed_is_replaced(store: SharedStore, valkey: ValkeyServer) -> None:
    assert await store.run(COUNT, ["count"], [1]) == 1
    valkey.client.client_kill_filter(_type="normal", skipme=True)
    assert await store.run(COUNT, ["count"], [1]) == 2


async def test_after_a_failure_calls_fail_at_once_until_the_backoff_ends(
    store: SharedStore, valkey: ValkeyServer, up: Gauge
) -> None:
    await store.run(COUNT, ["count"], [1])
    valkey.stop()
    with pytest.raises(StoreDown):
        await store.run(COUNT, ["count"], [1])
    assert up._value.get() == 0
    valkey.start()
    with pytest.raises(StoreDown, match="lately"):
        await store.run(COUNT, ["count"], [1])
    async with asyncio.timeout(60):
        while True:
            try:
                assert await store.run(COUNT, ["count"], [1]) == 1, "a restarted server is empty"
                break
            except StoreDown:
                await asyncio.sleep(0.02)
    assert up._value.get() == 1


async def test_a_cancelled_call_leaves_its_connection_usable(store: SharedStore, valkey: ValkeyServer) -> None:
    await store.run(COUNT, ["count"], [1])
    assert valkey.process
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        call = asyncio.create_task(store.run(COUNT, ["count"], [1]))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    finally:
        valkey.process.send_signal(signal.SIGCONT)
    assert await store.run(COUNT, ["other"], [5]) == 5


async def test_an_error_of_the_script_is_store_down_and_not_a_hang(store: SharedStore) -> None:
    async with asyncio.timeout(60):
        with pytest.raises(StoreDown):
            await store.run("return redis.call('NOSUCH')", [], [])


def test_an_url_of_another_scheme_is_rejected(up: Gauge) -> None:
    with pytest.raises(ValueError, match="scheme"):
        SharedStore("http://127.0.0.1:1", up)
