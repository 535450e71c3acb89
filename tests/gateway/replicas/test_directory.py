"""The directory in a real store: leases, announcements, and what other replicas find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from gateway.agents.link import AgentLink
from gateway.replicas.directory import Directory, owner_key
from gateway.storage.shared_store import SharedStore, StoreDown
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

ANN = ("default", "ann")


def agent(name: str, slots: int = 8, fingerprint: str = "f") -> AgentLink:
    return AgentLink(name, "", ANN, fingerprint, slots)


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[SharedStore]:
    store = SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry()))
    yield store
    await store.close()


class Replica:
    """A directory, and the owner keys that it reported."""

    def __init__(self, store: SharedStore, address: str, per_owner: int = 3) -> None:
        self.reported: list[str] = []
        self.directory = Directory(store, address, per_owner, self.reported.extend)


async def test_agents_are_found_by_other_replicas_with_their_slots(store: SharedStore) -> None:
    here, there = Replica(store, "ws://here"), Replica(store, "ws://there")
    for replica in (here, there):
        await replica.directory.renew()
    agents = [agent("one", 2), agent("two", 5), agent("other", 9, fingerprint="g")]
    for attached in agents:
        assert await there.directory.announce(attached)
    assert await here.directory.find(ANN, "f") == {"ws://there": 7}
    assert await here.directory.find(("default", "bob"), "f") == {}
    assert await there.directory.find(ANN, "f") == {}, "its own are not listed"
    await here.directory.renew()
    assert owner_key(ANN) in here.reported
    for attached in agents:
        there.directory.withdraw(attached)
    await there.directory.stop()
    assert await here.directory.find(ANN, "f") == {}


async def test_an_owners_agents_are_counted_over_all_replicas(store: SharedStore) -> None:
    here, there = Replica(store, "ws://here"), Replica(store, "ws://there")
    for replica in (here, there):
        await replica.directory.renew()
    first = agent("one")
    assert await here.directory.announce(first)
    assert await there.directory.announce(agent("two"))
    assert await there.directory.announce(agent("three"))
    assert not await here.directory.announce(agent("four"))
    here.directory.withdraw(first)
    await here.directory.stop()
    assert await here.directory.announce(agent("five"))


async def test_with_the_lease_go_the_entries(store: SharedStore, valkey: ValkeyServer) -> None:
    here, there = Replica(store, "ws://here"), Replica(store, "ws://there")
    for replica in (here, there):
        await replica.directory.renew()
    assert await there.directory.announce(agent("one"))
    await there.directory.leave()
    assert await here.directory.find(ANN, "f") == {}
    assert not valkey.client.keys("edgedraft:agents:*"), "entries without a lease are deleted when they are seen"
    await there.directory.renew()
    assert valkey.client.zcard("edgedraft:replicas") == 1, "a replica that leaves takes no new lease"


async def test_a_lost_lease_is_taken_under_a_new_name_and_all_is_announced_again(
    store: SharedStore, valkey: ValkeyServer
) -> None:
    here, there = Replica(store, "ws://here"), Replica(store, "ws://there")
    for replica in (here, there):
        await replica.directory.renew()
    assert await there.directory.announce(agent("one"))
    name = there.directory._name
    valkey.client.flushall()
    await here.directory.renew()
    assert await here.directory.find(ANN, "f") == {}
    await there.directory.renew()
    assert there.directory._name != name
    await until(lambda: valkey.client.keys("edgedraft:agents:*"))
    assert await here.directory.find(ANN, "f") == {"ws://there": 8}
    for replica in (here, there):
        await replica.directory.stop()


async def test_without_the_store_an_agent_is_accepted(store: SharedStore, valkey: ValkeyServer) -> None:
    here = Replica(store, "ws://here")
    await here.directory.renew()
    valkey.stop()
    assert await here.directory.announce(agent("one"))
    with pytest.raises(StoreDown):
        await here.directory.find(ANN, "f")


async def test_many_agents_are_announced_again_while_the_lease_is_kept(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.replicas.directory.RENEW_SECONDS", 0.1)
    store = SharedStore(valkey.url, Gauge("up", "up", registry=CollectorRegistry()))
    directory = Directory(store, "ws://here", 10_000, lambda keys: None)
    running = asyncio.create_task(directory.run())
    agents = [AgentLink(f"agent-{n}", "", ("acme", f"owner-{n % 250}"), "f", 8) for n in range(500)]

    def entries() -> int:
        count = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do n = n + redis.call('HLEN', key) end"
        return int(valkey.client.eval(f"local n = 0 {count} return n", 0, "edgedraft:agents:*"))

    await asyncio.gather(*(directory.announce(agent) for agent in agents))
    await until(lambda: entries() >= 500)
    valkey.client.flushall()
    await until(lambda: entries() == 500)
    assert valkey.client.zcard("edgedraft:replicas") == 1
    for agent in agents:
        directory.withdraw(agent)
    await until(lambda: entries() == 0)
    running.cancel()
    await directory.stop()
    await store.close()
