"""Tickets open one WebSocket each at any replica."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Gauge

from gateway.agents.tickets import TICKET_SECONDS, Ticket
from gateway.replicas.shared_tickets import PREFIX, SharedTickets
from gateway.storage.shared_store import SharedStore
from tests.support.valkey_server import ValkeyServer

ANN = Ticket("a" * 64, "https://gateway.example.com")


async def test_what_is_stored_opens_nothing(valkey: ValkeyServer) -> None:
    store = SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry()))
    name = await SharedTickets(store).issue(ANN)
    (key,) = valkey.client.scan_iter(f"{PREFIX}*")
    assert name.encode() not in key
    assert name not in str(valkey.client.get(key))
    assert 0 < valkey.client.ttl(key) <= TICKET_SECONDS
    await store.close()


async def test_every_replica_takes_a_ticket_of_another_and_one_of_them_has_it(valkey: ValkeyServer) -> None:
    stores = [SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry())) for _ in range(3)]
    replicas = [SharedTickets(store) for store in stores]
    name = await replicas[0].issue(ANN)
    taken = await asyncio.gather(*(replica.take(name) for replica in replicas))
    assert sorted(taken, key=bool) == [None, None, ANN]
    for store in stores:
        await store.close()


async def test_without_the_store_a_replica_takes_its_own(valkey: ValkeyServer) -> None:
    stores = [SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry())) for _ in range(2)]
    here, there = (SharedTickets(store) for store in stores)
    valkey.stop()
    names = [await here.issue(ANN) for _ in range(2)]
    assert await there.take(names[0]) is None
    assert await here.take(names[1]) == ANN
    valkey.start()
    for store in stores:
        await store.close()
