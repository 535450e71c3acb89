"""The search for agents at other replicas: in which order, until when, and what it does about failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.agents.registry import AgentRegistry
from gateway.agents.slot import AgentHost
from gateway.observability.metrics import Metrics
from gateway.replicas import remote_agents
from gateway.replicas.directory import owner_key
from gateway.replicas.handshake import Handshake
from gateway.replicas.link import RemoteSlot, SlotRequester
from gateway.replicas.remote_agents import RemoteAgents, Unreachable
from gateway.storage.shared_store import StoreDown
from tests.support.waiting import until

ANN = ("default", "ann")


class FakeDirectory:
    """Finds `slots`, or fails while it is None."""

    def __init__(self) -> None:
        self.slots: dict[str, int] | None = {}
        self.asked = 0

    async def find(self, owner: object, fingerprint: str) -> dict[str, int]:
        self.asked += 1
        if self.slots is None:
            raise StoreDown("down")
        return self.slots


class FakeLink:
    """A link to a replica that answers every request alike: "granted", "queued", "unavailable" or not at all."""

    ended = False

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.requests: list[FakeSlot] = []
        self.sessions = 0

    def request_slot(self, requester: SlotRequester, session: object) -> RemoteSlot:
        slot = FakeSlot()
        self.requests.append(slot)
        loop = asyncio.get_running_loop()
        remote = cast(RemoteSlot, slot)
        if self.answer == "granted":
            loop.call_soon(requester.on_granted, remote)
        elif self.answer == "queued":
            loop.call_soon(requester.on_queued)
        elif self.answer == "unavailable":
            loop.call_soon(requester.on_unavailable, remote)
        self.requester = requester
        return remote


class FakeSlot:
    closed = False

    def close(self) -> None:
        self.closed = True


class Waiting:
    """A session that waits for an agent."""

    owner, fingerprint, vocab_size = ANN, "f", 100

    def __init__(self) -> None:
        self.agents: list[AgentHost] = []

    def on_agent(self, agent: AgentHost) -> None:
        self.agents.append(agent)


class Around:
    def __init__(self) -> None:
        metrics = Metrics()
        self.registry = AgentRegistry(4, metrics)
        self.directory = FakeDirectory()
        self.agents = RemoteAgents(
            cast(Any, self.directory), Handshake("replicas-of-the-tests"), self.registry, metrics
        )
        self.registry.remote = self.agents
        self.links: dict[str, FakeLink] = cast(Any, self.agents._links)
        self.session = Waiting()


@pytest.fixture
async def around() -> AsyncIterator[Around]:
    around = Around()
    yield around
    around.registry.leave(around.session)
    await around.agents.stop()


async def test_the_first_slot_that_is_granted_is_taken_and_other_requests_end(around: Around) -> None:
    around.directory.slots = {"ws://full": 4, "ws://free": 4, "ws://later": 4}
    for address, answer in (("ws://full", "queued"), ("ws://free", "granted"), ("ws://later", "granted")):
        around.links[address] = FakeLink(answer)
    around.registry.seek(around.session)
    await until(lambda: around.session.agents)
    [queued] = around.links["ws://full"].requests
    assert queued.closed
    assert around.session.agents == cast(Any, around.links["ws://free"].requests)
    assert not around.links["ws://later"].requests


async def test_replicas_with_few_own_sessions_per_slot_come_first(around: Around) -> None:
    around.directory.slots = {"ws://a": 2, "ws://b": 8, "ws://c": 1}
    for address, sessions in (("ws://a", 1), ("ws://b", 2), ("ws://c", 3)):
        around.links[address] = FakeLink("queued")
        around.links[address].sessions = sessions
    assert await around.agents.find_hosts(around.session) == ["ws://b", "ws://a", "ws://c"]


async def test_a_new_agent_starts_the_search_again(around: Around) -> None:
    around.registry.seek(around.session)
    await until(lambda: around.directory.asked == 1)
    around.directory.slots = {"ws://new": 1}
    around.links["ws://new"] = FakeLink("granted")
    around.agents.on_attached([owner_key(("default", "bob"))])
    around.agents.on_attached([owner_key(ANN)])
    await until(lambda: around.session.agents)
    assert around.directory.asked == 2


async def test_a_replica_that_does_not_answer_holds_the_search_up_only_for_a_while(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_agents, "ANSWER_SECONDS", 0.01)
    around.directory.slots = {"ws://mute": 4, "ws://free": 4}
    around.links["ws://mute"] = FakeLink("")
    around.links["ws://free"] = FakeLink("granted")
    around.registry.seek(around.session)
    await until(lambda: around.session.agents)
    assert around.links["ws://mute"].requests[0].closed


async def test_failures_are_tried_again(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_agents, "RETRY_SECONDS", 0.02)
    around.directory.slots = None
    around.registry.seek(around.session)
    await until(lambda: around.directory.asked >= 2)
    around.directory.slots = {"ws://127.0.0.1:9": 1}  # nothing listens there
    asked = around.directory.asked
    await until(lambda: around.directory.asked > asked + 1)
    around.directory.slots = {"ws://empty": 1}
    around.links["ws://empty"] = FakeLink("unavailable")
    await until(lambda: len(around.links["ws://empty"].requests) >= 2)
    around.links["ws://empty"].answer = "granted"
    await until(lambda: around.session.agents)


async def test_a_replica_that_was_not_reached_is_not_dialled_again_at_once(around: Around) -> None:
    for _ in range(2):
        with pytest.raises(Unreachable):
            await around.agents.get_link("ws://127.0.0.1:9")
    assert around.agents._not_before.keys() == {"ws://127.0.0.1:9"}


async def test_a_session_that_leaves_ends_its_requests(around: Around) -> None:
    around.directory.slots = {"ws://full": 4}
    around.links["ws://full"] = FakeLink("queued")
    around.registry.seek(around.session)
    await until(lambda: around.links["ws://full"].requests)
    around.registry.leave(around.session)
    assert around.links["ws://full"].requests[0].closed
    assert not around.agents._searches
