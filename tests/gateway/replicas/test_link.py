"""The requesting replica's slots: granted once, opened, and lost with the link or the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, serve

from edgedraft.links.link import Link
from edgedraft.links.settings import REPLICA
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_transport import connection_options, dial
from edgedraft.tree import DraftViolation
from edgedraft.wire import Close, Commit, Draft, Open, Sampling, WireError, encode_frame
from gateway.replicas.link import RemoteSlot, ReplicaLink
from gateway.replicas.messages import RequestSlot, SlotGranted, SlotQueued, SlotUsage, decode_to_host
from tests.support.waiting import until

SESSION = cast(Any, SimpleNamespace(owner=("acme", "ann"), fingerprint="f", vocab_size=100))
OPEN = Open(1, [1, 2], Sampling(), 50)
DRAFT = Draft(1, 1, 0, 1, [5], [0], b"\0")


class Host:
    """A host replica; what it is sent is in `received`."""

    def __init__(self) -> None:
        self.received: list[Struct] = []
        self.connection: ServerConnection | None = None

    async def handle(self, connection: ServerConnection) -> None:
        self.connection = connection
        async for frame in connection:
            self.received += decode_to_host(frame)

    async def send(self, *messages: Struct) -> None:
        assert self.connection
        await self.connection.send(encode_frame(messages))


class Events:
    """A link.SlotRequester and slot.AgentListener that records what it is called with."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_queued(self) -> None:
        self.events.append("queued")

    def on_granted(self, slot: RemoteSlot) -> None:
        self.events.append("granted")

    def on_unavailable(self, slot: RemoteSlot) -> None:
        self.events.append("unavailable")

    def on_draft(self, draft: Draft) -> None:
        if draft.tokens == [99]:
            raise DraftViolation("wrong")
        self.events.append(draft)

    def on_agent_lost(self) -> None:
        self.events.append("lost")


@pytest.fixture
async def around() -> AsyncIterator[tuple[Host, ReplicaLink, asyncio.Task[None]]]:
    host = Host()
    async with serve(host.handle, "127.0.0.1", 0, **connection_options(REPLICA)) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        link = ReplicaLink(url, Link(await dial(url, REPLICA), REPLICA))
        running = asyncio.create_task(link.run())
        yield host, link, running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_slot_is_requested_queued_granted_and_used(around) -> None:
    host, link, _ = around
    events = Events()
    slot = link.request_slot(events, SESSION)
    await until(lambda: host.received == [RequestSlot(1, "acme", "ann", "f", 100)])
    assert link.sessions == 1
    await host.send(SlotQueued(1), SlotGranted(1, "agent", 3))
    await until(lambda: events.events == ["queued", "granted"])
    assert (slot.identity, slot.owner) == ("agent", ("acme", "ann"))
    slot.open(events, OPEN)
    slot.commit(Commit(7, 0, [1]))
    await host.send(DRAFT, SlotUsage(1, 20.0, 1))
    await until(lambda: slot.seconds() >= 20)
    assert events.events[2:] == [DRAFT]
    slot.close()
    slot.close()
    await until(lambda: host.received[1:] == [OPEN, Commit(1, 0, [1]), Close(1)])
    assert link.sessions == 0


async def test_a_slot_that_the_host_closes_is_unavailable_or_lost(around) -> None:
    host, link, _ = around
    waiting, using = Events(), Events()
    link.request_slot(waiting, SESSION)
    link.request_slot(using, SESSION).open(using, OPEN)
    await until(lambda: len(host.received) == 3)
    await host.send(Close(1), Close(2), replace(DRAFT, session=2))
    await until(lambda: using.events)
    assert (waiting.events, using.events) == (["unavailable"], ["lost"])


async def test_a_lost_link_loses_every_slot(around) -> None:
    host, link, running = around
    waiting, using = Events(), Events()
    link.request_slot(waiting, SESSION)
    link.request_slot(using, SESSION).open(using, OPEN)
    await until(lambda: len(host.received) == 3)
    host.connection.transport.abort()
    with pytest.raises(TransportClosed):
        await running
    assert (waiting.events, using.events) == (["unavailable"], ["lost"])
    assert link.ended


@pytest.mark.parametrize(
    "messages", [[SlotQueued(2)], [DRAFT], [SlotGranted(1, "a", 1)] * 2, [SlotGranted(1, "a", 1), SlotQueued(1)]]
)
async def test_what_no_correct_host_sends_ends_the_link(around, messages: list[Struct]) -> None:
    host, link, running = around
    link.request_slot(Events(), SESSION)
    await until(lambda: host.received)
    await host.send(*messages)
    with pytest.raises(WireError):
        await running


async def test_an_invalid_draft_is_the_hosts_fault(around) -> None:
    host, link, running = around
    events = Events()
    link.request_slot(events, SESSION).open(events, OPEN)
    await until(lambda: len(host.received) == 2)
    await host.send(replace(DRAFT, tokens=[99]))
    with pytest.raises(WireError, match="wrong"):
        await running
    assert events.events == ["lost"]


def test_a_slot_is_granted_once() -> None:
    events = Events()
    slot = RemoteSlot(cast(ReplicaLink, None), events, ("default", "ann"))
    slot.deliver(SlotGranted(1, "a", 1))
    for again in (SlotGranted(1, "b", 1), SlotQueued(1)):
        with pytest.raises(WireError):
            slot.deliver(again)
    assert slot.identity == "a"
    assert events.events == ["granted"]
