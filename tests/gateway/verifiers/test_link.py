"""One link to a verifier over a real socket: connecting, sessions, and what each message means for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, serve

from edgedraft.links.link import Link
from edgedraft.links.settings import GATEWAY_TO_VERIFIER
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_transport import connection_options, dial
from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_LEAVING,
    CLOSE_OVERLOADED,
    PROTOCOL,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Hello,
    Open,
    Queued,
    Sampling,
    VerifierWelcome,
    WireError,
    decode_to_verifier,
    encode_frame,
)
from gateway.verifiers.billing import AttemptBilling
from gateway.verifiers.discovery import VerifierAddress
from gateway.verifiers.health import VerifierHealth
from gateway.verifiers.link import VerifierLink, connect
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import card
from tests.support.waiting import until

OPEN = Open(1, [1, 2], Sampling(), 50)


class Events:
    """A VerifierListener that records what it is called with."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def on_commit(self, commit: Commit) -> None:
        self.events.append(commit)

    def on_progress(self, computed: int) -> None:
        self.events.append(("progress", computed))

    def on_queued(self, ahead: int) -> None:
        self.events.append(ahead)

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        self.events.append((code, retry_after))


class Around:
    """A link, and the verifier's end of it."""

    link: VerifierLink
    running: asyncio.Task[None]

    def __init__(self) -> None:
        self.received: list[Struct] = []
        self.connections: list[ServerConnection] = []

    async def handle(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        async for frame in connection:
            self.received += decode_to_verifier(frame)

    async def send(self, *messages: Struct) -> None:
        await self.connections[0].send(encode_frame(messages))


@pytest.fixture
async def around() -> AsyncIterator[Around]:
    around = Around()
    async with serve(around.handle, "127.0.0.1", 0, **connection_options(GATEWAY_TO_VERIFIER)) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        link = Link(await dial(url, GATEWAY_TO_VERIFIER), GATEWAY_TO_VERIFIER)
        around.link = VerifierLink(url, link, cast(Any, None), 2, VerifierHealth(), AttemptBilling(lambda *_: None))
        around.running = asyncio.create_task(around.link.run())
        await until(lambda: around.connections)
        yield around
        around.running.cancel()
        await asyncio.gather(around.running, return_exceptions=True)


async def test_connecting_returns_the_welcome_and_presents_the_token() -> None:
    async with ScriptedVerifier(token="secret", max_sessions=7) as verifier:
        address = VerifierAddress(verifier.url)
        link, welcome = await connect(address, "secret", "gateway")
        assert (welcome.max_sessions, welcome.card) == (7, card())
        await link.close()
        with pytest.raises(WireError, match="another token"):
            await connect(address, "wrong", "gateway")


@pytest.mark.parametrize("version", [PROTOCOL + 1, PROTOCOL - 1])
async def test_a_verifier_of_another_protocol_is_not_used(version: int) -> None:
    async with ScriptedVerifier(protocol=version) as verifier:
        with pytest.raises(WireError, match=f"protocol {version}"):
            await connect(VerifierAddress(verifier.url), "", "gateway")


async def test_a_server_that_is_no_verifier_is_not_used() -> None:
    async def greet(connection: ServerConnection) -> None:
        await connection.send(encode_frame([Queued(1, 0)]))
        await connection.wait_closed()

    async with serve(greet, "127.0.0.1", 0) as server:
        address = VerifierAddress(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
        with pytest.raises(WireError, match="welcome"):
            await connect(address, "", "gateway")
    async with serve(greet, "127.0.0.1", 0, process_request=lambda c, _: c.respond(404, "")) as server:
        address = VerifierAddress(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}")
        with pytest.raises(WireError, match="HTTP 404"):
            await connect(address, "", "gateway")


async def test_a_session_from_open_to_its_last_commit(around: Around) -> None:
    events = Events()
    session = around.link.open(events, OPEN)
    assert session.draft(Draft(9, 1, 0, 1, [5], [0], b"\0"))
    session.set_agent("laptop")
    await until(lambda: len(around.received) == 3)
    opened = replace(OPEN, attempt=1)
    assert around.received == [opened, Draft(1, 1, 0, 1, [5], [0], b"\0"), AgentChanged(1, "laptop")]
    await around.send(Commit(1, 0, [5]), Commit(1, 1, [6], finish="stop"), Commit(1, 2, [7]))
    await until(lambda: len(events.events) == 2)
    assert (around.link.running, around.link.has_capacity) == (0, True)
    session.close()
    around.link.open(events, OPEN).close()
    await until(lambda: around.received[3:] == [replace(OPEN, session=2, attempt=2), Close(2)])


async def test_being_queued_is_reported_once_and_before_the_first_commit(around: Around) -> None:
    queued, begun = Events(), Events()
    around.link.open(queued, OPEN)
    around.link.open(begun, OPEN)
    assert not around.link.has_capacity
    await around.send(*[Queued(1, 3)] * 3, Commit(2, 0, [5]), Queued(2, 1))
    await around.send(Commit(2, 1, [6]))
    await until(lambda: len(begun.events) == 2)
    assert queued.events == [3]
    assert begun.events == [Commit(2, 0, [5]), Commit(2, 1, [6])]
    assert around.link.waiting == 1
    await around.send(Commit(1, 0, [5]))
    await until(lambda: not around.link.waiting)


async def test_what_a_close_says_of_the_verifier(around: Around) -> None:
    events = Events()
    for code in (CLOSE_FAILED, CLOSE_OVERLOADED, CLOSE_LEAVING):
        session = around.link.open(events, OPEN)
        await around.send(Close(session.number, code, "", 2.0))
        await until(lambda: not around.link.running)
    assert events.events == [(CLOSE_FAILED, 2.0), (CLOSE_OVERLOADED, 2.0), (CLOSE_LEAVING, 2.0)]
    assert around.link.health._failures == 1
    assert around.link.draining


async def test_a_lost_link_ends_its_sessions(around: Around) -> None:
    events = Events()
    around.link.open(events, OPEN)
    around.connections[0].transport.abort()
    with pytest.raises(TransportClosed):
        await around.running
    assert events.events == [(CLOSE_FAILED, 0.0)]
    assert around.link.draining


@pytest.mark.parametrize("message", [VerifierWelcome(PROTOCOL, card(), 8), Commit(5, 0, [1]), Hello(PROTOCOL)])
async def test_what_no_correct_verifier_sends_ends_the_link(around: Around, message: Struct) -> None:
    await around.send(message)
    with pytest.raises(WireError):
        await around.running


async def test_drafts_are_dropped_for_a_verifier_that_does_not_read(around: Around) -> None:
    around.connections[0].transport.pause_reading()
    session = around.link.open(Events(), OPEN)
    draft = Draft(1, 1, 0, 1, [5], [0], b"\0")
    sent = sum(session.draft(draft) for _ in range(GATEWAY_TO_VERIFIER.max_queued))
    assert 0 < sent <= GATEWAY_TO_VERIFIER.max_queued // 2 + 1
    assert not around.running.done()


async def test_a_verifier_is_preferred_unless_it_is_ejected_or_on_probation_with_a_session(around: Around) -> None:
    now = 0.0
    health = around.link.health = VerifierHealth(lambda: now)
    assert around.link.preferred
    for _ in range(3):
        health.record_failure()
    assert not around.link.preferred
    now = 1000.0
    assert around.link.preferred
    around.link.open(Events(), OPEN)
    assert not around.link.preferred
    health.record_success()
    assert around.link.preferred
