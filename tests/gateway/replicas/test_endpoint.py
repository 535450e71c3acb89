"""The port for other replicas: who cannot prove to be one gets nowhere, and who is one may not do as it likes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from edgedraft import wire
from edgedraft.wire import Close, Commit, Draft, Open, Sampling, encode_frame
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.link import RemoteSlot, ReplicaLink, SlotRequester, dial
from gateway.replicas.messages import CHALLENGE_HEADER, PATH, RequestSlot, SlotGranted, SlotQueued, to_requester
from tests.gateway.conftest import Gateway
from tests.gateway.replicas.test_replicas import SECRET, replicas
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import FINGERPRINT, VOCAB_SIZE
from tests.support.valkey_server import ValkeyServer
from tests.support.waiting import until

SEEK = RequestSlot(1, "default", "default", FINGERPRINT, VOCAB_SIZE)


@pytest.fixture
async def lender(tmp_path: Path, valkey: ValkeyServer, verifier: ScriptedVerifier) -> AsyncIterator[Gateway]:
    async with replicas(tmp_path, valkey, verifier, 1) as (gateway,):
        yield gateway


def address(gateway: Gateway) -> str:
    assert gateway.services.replicas
    return gateway.services.replicas._endpoint.address


async def said(connection: ClientConnection, count: int) -> Sequence[Struct]:
    got: list[Struct] = []
    async with asyncio.timeout(5):
        while len(got) < count:
            got += to_requester(await connection.recv())
    return got


def test_a_call_is_for_one_replica_and_one_time() -> None:
    now = 1000.0
    here, there = Handshake(SECRET, lambda: now), Handshake(SECRET, lambda: now)
    call, answer = here.challenge("ws://there")
    with pytest.raises(HandshakeFailed):
        there.verify("ws://elsewhere", call)
    there.verify("ws://there", call)
    assert there.respond("ws://there", call) == answer
    assert Handshake("another secret, just as long").respond("ws://there", call) != answer
    with pytest.raises(HandshakeFailed, match="before"):
        there.verify("ws://there", call)
    old, _ = here.challenge("ws://there")
    now += 61
    with pytest.raises(HandshakeFailed, match="old"):
        there.verify("ws://there", old)
    for wrong in ("", "a", "a b", "a b c d", old[:-1], "\udcff 1 \udcfe"):
        with pytest.raises(HandshakeFailed):
            there.verify("ws://there", wrong)
    with pytest.raises(ValueError, match="16"):
        Handshake("too short")


async def test_who_cannot_prove_to_be_a_replica_is_denied_in_http(lender: Gateway) -> None:
    url = address(lender)
    with pytest.raises(InvalidStatus) as denied:
        await dial(url, Handshake("another secret, just as long"))
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


async def test_a_proof_that_is_no_text_is_denied_without_a_word_in_the_log(
    lender: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = address(lender).removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    writer.write(head.encode() + CHALLENGE_HEADER.encode() + b": \xff\xfe \xff \xff\r\n\r\n")
    async with asyncio.timeout(5):
        assert b"401" in await reader.readline()
    writer.close()
    assert not [record for record in caplog.records if record.exc_info]


def test_a_seat_is_granted_once() -> None:
    desk = RemoteSlot(cast(ReplicaLink, None), cast(SlotRequester, Once()), ("default", "ann"))
    desk.deliver(SlotGranted(1, "a", 1))
    for again in (SlotGranted(1, "b", 1), SlotQueued(1)):
        with pytest.raises(wire.WireError):
            desk.deliver(again)
    assert desk.identity == "a"


class Once:
    """A link.Asker that may be told of one seat."""

    def __init__(self) -> None:
        self.granted = 0

    def on_granted(self, desk: RemoteSlot) -> None:
        self.granted += 1
        assert self.granted == 1


async def test_nothing_is_said_to_who_cannot_answer() -> None:
    """As when somebody else wrote an address into the directory."""
    heard: list[object] = []

    async def listen(connection: ServerConnection) -> None:
        heard.extend([frame async for frame in connection])

    async with serve(listen, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(HandshakeFailed):
            await dial(url, Handshake(SECRET))
    assert not heard


async def test_a_seat_is_granted_by_owner_only(lender: Gateway) -> None:
    ann = await lender.accounts.create("ann", "default", ["inference", "edge"])
    connection = await dial(address(lender), Handshake(SECRET))
    async with lender.agent(ann) as hers:
        await connection.send(encode_frame([SEEK]))
        assert await said(connection, 1) == [SlotQueued(1)]
        for n, seek in enumerate((RequestSlot(0, "acme", "ann", "", 9), RequestSlot(0, "default", "", "", 9)), 2):
            await connection.send(encode_frame([RequestSlot(n, seek.tenant, seek.owner, FINGERPRINT, VOCAB_SIZE)]))
            assert await said(connection, 1) == [SlotQueued(n)]
        await connection.send(encode_frame([RequestSlot(4, "default", "ann", FINGERPRINT, VOCAB_SIZE)]))
        [granted] = await said(connection, 1)
        assert isinstance(granted, SlotGranted)
        assert (granted.session, granted.running) == (4, 1)
        assert not hers.opened, "an agent learns nothing of a session that has not begun"
        async with lender.agent():
            [granted] = await said(connection, 1)
            assert isinstance(granted, SlotGranted)
            assert granted.session == 1
        assert await said(connection, 1) == [Close(1, reason="the agent has gone")]
        await connection.close()
        await until(lambda: lender.services.metrics.remote_sessions._value.get() == 0)
        assert not lender.services.agents._seekers
        assert lender.services.agents.attached()[0].running == 0


OPEN = Open(1, [1, 2], Sampling(), 50)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([SEEK, SEEK], wire.FORBIDDEN),
        ([OPEN], wire.FORBIDDEN),
        ([Commit(3, 0, [1])], wire.FORBIDDEN),
        ([SEEK, Commit(1, 0, [1])], wire.FORBIDDEN),
        ([SEEK, OPEN, Commit(1, 5, [1])], wire.VIOLATION),
        ([Draft(1, 1, 0, 1, [1], [0], b"\0")], wire.BAD_FRAME),
        ([wire.Hello(wire.PROTOCOL)], wire.BAD_FRAME),
    ],
)
async def test_what_no_correct_replica_sends_ends_its_link_alone(
    lender: Gateway, messages: list[Struct], code: int
) -> None:
    async with lender.agent(mute=True) as agent:
        good, bad = [await dial(address(lender), Handshake(SECRET)) for _ in range(2)]
        await good.send(encode_frame([SEEK]))
        await said(good, 1)
        await good.send(encode_frame([OPEN]))
        await bad.send(encode_frame(messages))
        async with asyncio.timeout(5):
            await bad.wait_closed()
        assert bad.close_code == code
        assert bad.close_reason
        await good.send(encode_frame([Commit(1, 0, [1, 2]), Commit(1, 2, [3])]))
        await until(lambda: agent.opened)
        number = agent.opened[0].session
        await until(lambda: agent.committed[number] == [1, 2, 3])
        await agent.say([Draft(number, 1, 0, 1, [1], [0], b"\0"), Draft(number, 1, 0, 2, [VOCAB_SIZE], [1], b"\0")])
        assert (await agent.closing())[0] == wire.VIOLATION, "the lender checks what its agents send"
        *_, last = await said(good, 3)
        assert last == Close(1, reason="the agent has gone")
        await good.close()


async def test_an_agent_cannot_draft_for_a_seat_that_is_only_held(lender: Gateway) -> None:
    connection = await dial(address(lender), Handshake(SECRET))
    async with lender.agent(mute=True) as agent:
        await connection.send(encode_frame([SEEK]))
        await said(connection, 1)
        await agent.say([Draft(1, 1, 0, 1, [1], [0], b"\0")])
        assert (await agent.closing())[0] == wire.FORBIDDEN
    await connection.close()
