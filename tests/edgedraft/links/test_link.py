"""Links over real sockets on loopback, on both WebSocket libraries: greeting, relaying, bounds and closing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.server import ServerConnection, serve

from edgedraft import wire
from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outbox, PeerTooSlow
from edgedraft.links.settings import LinkSettings
from edgedraft.links.starlette_transport import StarletteTransport
from edgedraft.links.transport import TransportClosed
from edgedraft.links.websockets_transport import WebSocketsTransport, connection_options, dial
from edgedraft.serving.server import server_config
from edgedraft.wire import PROTOCOL, Close, Hello, WireError, decode_from_verifier, decode_to_verifier, encode_frame
from tests.support.waiting import until

SETTINGS = LinkSettings(1 << 20, close_timeout=0.5, greeting_timeout=2.0, ping_interval=5.0)
HELLO = Hello(PROTOCOL, "gateway")

Serve = Callable[[Link], Awaitable[None]]
Server = Callable[[Serve], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def websockets_server(handle: Serve) -> AsyncIterator[str]:
    async def connected(connection: ServerConnection) -> None:
        await handle(Link(WebSocketsTransport(connection), SETTINGS))

    async with serve(connected, "127.0.0.1", 0, **connection_options(SETTINGS)) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


class _Server(uvicorn.Server):
    """Leaves the process's signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def starlette_server(handle: Serve) -> AsyncIterator[str]:
    async def connected(websocket: WebSocket) -> None:
        await websocket.accept()
        await handle(Link(StarletteTransport(websocket, SETTINGS), SETTINGS))

    app = Starlette(routes=[WebSocketRoute("/", connected)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Server(server_config(app, SETTINGS.max_frame, 5.0, 1))
    serving = asyncio.create_task(server.serve([listener]))
    await until(lambda: server.started)
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving


both = pytest.mark.parametrize("server", [websockets_server, starlette_server])


async def ignore(frame: Frame) -> None:
    pass


async def connect(url: str, settings: LinkSettings = SETTINGS) -> Link:
    return Link(await dial(url, settings), settings)


@both
async def test_both_sides_greet_and_relay_in_order(server: Server) -> None:
    hellos: list[Hello] = []

    async def echo(link: Link) -> None:
        """Returns every message, then leaves the link to the client to close."""
        outbox = Outbox(SETTINGS)
        hellos.append(await link.receive_hello(decode_to_verifier))
        await link.send([Close(99)])

        async def take(frame: Frame) -> None:
            for message in decode_to_verifier(frame):
                outbox.put(message)

        with pytest.raises(TransportClosed) as closed:
            await link.run(outbox, take)
        assert (closed.value.code, closed.value.reason) == (1000, "done")

    async with server(echo) as url:
        link, outbox, got = await connect(url), Outbox(SETTINGS), list[int]()
        assert decode_from_verifier(await link.greet(HELLO)) == [Close(99)]

        async def take(frame: Frame) -> None:
            got.extend(message.session for message in decode_from_verifier(frame) if isinstance(message, Close))

        running = asyncio.create_task(link.run(outbox, take))
        for number in range(1, 3000):
            outbox.put(Close(number))
        await until(lambda: len(got) == 2999)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await link.close(1000, "done")
    assert got == list(range(1, 3000))
    assert hellos == [HELLO]


@both
async def test_code_and_reason_of_a_close_arrive(server: Server) -> None:
    async def refuse(link: Link) -> None:
        await link.receive_hello(decode_to_verifier)
        await link.close(wire.FORBIDDEN, "not here")
        await link.close(1000, "closing twice does nothing")

    async with server(refuse) as url:
        link = await connect(url)
        with pytest.raises(TransportClosed, match="not here") as closed:
            await link.greet(HELLO)
        assert (closed.value.code, closed.value.reason) == (wire.FORBIDDEN, "not here")
        with pytest.raises(TransportClosed):
            await link.send([Close(1)])


@both
async def test_a_connection_that_breaks_has_no_close_code(server: Server) -> None:
    ends: list[TransportClosed] = []

    async def wait(link: Link) -> None:
        try:
            await link.run(Outbox(SETTINGS), ignore)
        except TransportClosed as closed:
            ends.append(closed)

    async with server(wait) as url:
        transport = await dial(url, SETTINGS)
        transport._connection.transport.abort()
        with pytest.raises(TransportClosed) as closed:
            await transport.receive()
        assert closed.value.code is None
        await until(lambda: ends)


@both
async def test_a_frame_larger_than_the_bound_closes_the_link(server: Server) -> None:
    async def wait(link: Link) -> None:
        with contextlib.suppress(TransportClosed):
            await link.run(Outbox(SETTINGS), ignore)

    async with server(wait) as url:
        transport = await dial(url, SETTINGS)
        await transport.send(bytes(SETTINGS.max_frame + 1))
        with pytest.raises(TransportClosed) as closed:
            await transport.receive()
        assert closed.value.code == wire.TOO_LARGE


@both
async def test_a_peer_that_does_not_greet_in_time_is_closed(server: Server) -> None:
    async def expect(link: Link) -> None:
        link._settings = replace(SETTINGS, greeting_timeout=0.05)
        try:
            await link.receive_hello(decode_to_verifier)
        except WireError as error:
            await link.close(error.code, error.reason)

    async with server(expect) as url:
        with pytest.raises(TransportClosed, match=r"no hello in 0\.05 seconds") as closed:
            await (await dial(url, SETTINGS)).receive()
        assert closed.value.code == wire.TIMEOUT


async def test_a_server_that_does_not_answer_a_greeting_is_a_timeout() -> None:
    async def mute(link: Link) -> None:
        with contextlib.suppress(TransportClosed):
            await link.run(Outbox(SETTINGS), ignore)

    async with websockets_server(mute) as url:
        link = await connect(url, replace(SETTINGS, greeting_timeout=0.05))
        with pytest.raises(TimeoutError):
            await link.greet(HELLO)
        await link.close()


async def test_a_first_frame_that_is_no_hello_breaks_the_protocol() -> None:
    codes: list[int] = []

    async def expect(link: Link) -> None:
        with pytest.raises(WireError) as wrong:
            await link.receive_hello(decode_to_verifier)
        codes.append(wrong.value.code)

    async with websockets_server(expect) as url:
        for frame in (encode_frame([Close(1)]), encode_frame([Hello(PROTOCOL + 1)]), b"\xc1"):
            link = await dial(url, SETTINGS)
            await link.send(frame)
            await link.close()
    assert sorted(codes) == sorted([wire.BAD_FRAME, wire.VERSION, wire.BAD_FRAME])


async def test_a_peer_that_does_not_read_loses_its_link() -> None:
    """Its socket's buffers fill up, then a frame is not sent in time; the queue may overflow before that."""

    async def flood(settings: LinkSettings, url: str) -> None:
        outbox = Outbox(settings)
        link = await connect(url, settings)
        running = asyncio.create_task(link.run(outbox, ignore))
        try:
            while not running.done():
                for _ in range(100):
                    outbox.put(Close(1, reason="x" * 1000))
                await asyncio.sleep(0)
            await running
        finally:
            await link.close()

    async def freeze(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await connection.wait_closed()

    async with serve(freeze, "127.0.0.1", 0, close_timeout=0.1) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        with pytest.raises(PeerTooSlow, match="200 messages"):
            await flood(replace(SETTINGS, max_queued=200, close_timeout=0.1), url)
        with pytest.raises(PeerTooSlow, match=r"not read in 0\.1 seconds"):
            await flood(replace(SETTINGS, max_queued=1 << 30, send_timeout=0.1, close_timeout=0.1), url)


async def test_a_watcher_ends_the_link_with_its_error() -> None:
    async def wait(link: Link) -> None:
        with contextlib.suppress(TransportClosed):
            await link.run(Outbox(SETTINGS), ignore)

    async def revoked() -> None:
        raise WireError(wire.UNAUTHORIZED, "revoked")

    async with websockets_server(wait) as url:
        link = await connect(url)
        with pytest.raises(WireError, match="revoked"):
            await link.run(Outbox(SETTINGS), ignore, revoked())
        await link.close()


async def test_the_next_frame_is_received_when_the_last_one_was_taken() -> None:
    async def send(link: Link) -> None:
        for number in (1, 2, 3):
            await link.send([Close(number)])
        with contextlib.suppress(TransportClosed):
            await link.run(Outbox(SETTINGS), ignore)

    taken: list[Frame] = []
    go_on = asyncio.Event()

    async def take(frame: Frame) -> None:
        taken.append(frame)
        await go_on.wait()

    async with websockets_server(send) as url:
        link = await connect(url)
        running = asyncio.create_task(link.run(Outbox(SETTINGS), take))
        await until(lambda: taken)
        await asyncio.sleep(0.02)
        assert len(taken) == 1
        go_on.set()
        await until(lambda: len(taken) == 3)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await link.close()


async def test_a_ping_is_measured() -> None:
    async def wait(link: Link) -> None:
        with contextlib.suppress(TransportClosed):
            await link.run(Outbox(SETTINGS), ignore)

    async with websockets_server(wait) as url:
        transport = await dial(url, SETTINGS)
        assert 0 < await transport.ping() < 5
        await transport.close()
        with pytest.raises(TransportClosed):
            await transport.ping()
