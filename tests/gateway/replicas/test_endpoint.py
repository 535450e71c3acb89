"""The port for other replicas: peers without the secret are denied, one that breaks the protocol is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from edgedraft import wire
from edgedraft.wire import Close, Commit, Draft, Open, Sampling, encode_frame
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.link import connect as connect_replica
from gateway.replicas.messages import CHALLENGE_HEADER, PATH, RequestSlot, SlotGranted, SlotQueued, decode_to_requester
from tests.gateway.conftest import Gateway
from tests.gateway.replicas.test_replicas import SECRET, replicas
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import FINGERPRINT, VOCAB_SIZE
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

REQUEST = RequestSlot(1, "default", "default", FINGERPRINT, VOCAB_SIZE)


@pytest.fixture
async def host(tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier) -> AsyncIterator[Gateway]:
    async with replicas(tmp_path, valkey, verifier, 1) as (gateway,):
        yield gateway


def address(gateway: Gateway) -> str:
    assert gateway.state.replicas
    return gateway.state.replicas._endpoint.address


async def connected(gateway: Gateway) -> ClientConnection:
    """A link to this replica that passes its handshake."""
    url = address(gateway)
    challenge, _ = Handshake(SECRET).challenge(url)
    return await connect(url + PATH, additional_headers={CHALLENGE_HEADER: challenge}, proxy=None)


async def received(connection: ClientConnection, count: int) -> Sequence[Struct]:
    got: list[Struct] = []
    async with asyncio.timeout(60):
        while len(got) < count:
            got += decode_to_requester(await connection.recv())
    return got


async def test_a_peer_without_the_secret_is_denied_in_http(host: Gateway) -> None:
    url = address(host)
    with pytest.raises(InvalidStatus) as denied:
        await connect_replica(url, Handshake("another secret, just as long"))
    assert denied.value.response.status_code == 401
    for path, headers, status in (
        (PATH, {}, 401),
        (PATH, {"Authorization": f"Bearer {SECRET}"}, 401),
        (PATH, {CHALLENGE_HEADER: Handshake(SECRET).challenge("ws://another")[0]}, 401),
        ("/v1/replica/0", {CHALLENGE_HEADER: Handshake(SECRET).challenge(url)[0]}, 404),
    ):
        with pytest.raises(InvalidStatus) as denied:
            await connect(url + path, additional_headers=headers, proxy=None)
        assert denied.value.response.status_code == status


async def test_a_challenge_that_is_not_ascii_is_denied_without_a_traceback(
    host: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    name, port = address(host).removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    writer.write(head.encode() + CHALLENGE_HEADER.encode() + b": \xff\xfe \xff \xff\r\n\r\n")
    async with asyncio.timeout(60):
        assert b"401" in await reader.readline()
    writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_nothing_is_sent_to_a_server_without_the_secret() -> None:
    """As when somebody else wrote an address into the directory."""
    heard: list[object] = []

    async def listen(connection: ServerConnection) -> None:
        heard.extend([frame async for frame in connection])

    async with serve(listen, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(HandshakeFailed):
            await connect_replica(url, Handshake(SECRET))
    assert not heard


async def test_a_slot_is_granted_by_owner_only(host: Gateway) -> None:
    ann = await host.accounts.create("ann", "default", ["inference", "edge"])
    connection = await connected(host)
    async with host.agent(ann) as hers:
        await connection.send(encode_frame([REQUEST]))
        assert await received(connection, 1) == [SlotQueued(1)]
        for n, (tenant, owner) in enumerate((("acme", "ann"), ("default", "")), 2):
            await connection.send(encode_frame([RequestSlot(n, tenant, owner, FINGERPRINT, VOCAB_SIZE)]))
            assert await received(connection, 1) == [SlotQueued(n)]
        await connection.send(encode_frame([RequestSlot(4, "default", "ann", FINGERPRINT, VOCAB_SIZE)]))
        [granted] = await received(connection, 1)
        assert isinstance(granted, SlotGranted)
        assert (granted.session, granted.running) == (4, 1)
        assert not hers.opened, "an agent is not sent a session that has not begun"
        async with host.agent():
            [granted] = await received(connection, 1)
            assert isinstance(granted, SlotGranted)
            assert granted.session == 1
        assert await received(connection, 1) == [Close(1, reason="the agent has gone")]
        await connection.close()
        await until(lambda: host.state.metrics.remote_sessions._value.get() == 0)
        assert not host.state.agents._waiting
        assert host.state.agents.attached()[0].running == 0


OPEN = Open(1, [1, 2], Sampling(), 50)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([REQUEST, REQUEST], wire.FORBIDDEN),
        ([OPEN], wire.FORBIDDEN),
        ([Commit(3, 0, [1])], wire.FORBIDDEN),
        ([REQUEST, Commit(1, 0, [1])], wire.FORBIDDEN),
        ([REQUEST, OPEN, Commit(1, 5, [1])], wire.VIOLATION),
        ([Draft(1, 1, 0, 1, [1], [0], b"\0")], wire.BAD_FRAME),
        ([wire.Hello(wire.PROTOCOL)], wire.BAD_FRAME),
    ],
)
async def test_what_no_correct_replica_sends_ends_its_link_alone(
    host: Gateway, messages: list[Struct], code: int
) -> None:
    async with host.agent(mute=True) as agent:
        good, bad = [await connected(host) for _ in range(2)]
        await good.send(encode_frame([REQUEST]))
        await received(good, 1)
        await good.send(encode_frame([OPEN]))
        await bad.send(encode_frame(messages))
        async with asyncio.timeout(60):
            await bad.wait_closed()
        assert bad.close_code == code
        assert bad.close_reason
        await good.send(encode_frame([Commit(1, 0, [1, 2]), Commit(1, 2, [3])]))
        await until(lambda: agent.opened)
        number = agent.opened[0].session
        await until(lambda: agent.committed[number] == [1, 2, 3])
        await agent.say([Draft(number, 1, 0, 1, [1], [0], b"\0"), Draft(number, 1, 0, 2, [VOCAB_SIZE], [1], b"\0")])
        assert (await agent.closing())[0] == wire.VIOLATION, "the host checks what its agents send"
        *_, last = await received(good, 3)
        assert last == Close(1, reason="the agent has gone")
        await good.close()


async def test_an_agent_cannot_draft_for_a_slot_that_is_only_reserved(host: Gateway) -> None:
    connection = await connected(host)
    async with host.agent(mute=True) as agent:
        await connection.send(encode_frame([REQUEST]))
        await received(connection, 1)
        await agent.say([Draft(1, 1, 0, 1, [1], [0], b"\0")])
        assert (await agent.closing())[0] == wire.FORBIDDEN
    await connection.close()
