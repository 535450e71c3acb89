"""HTTP/1.1 and 1.0 on raw sockets: bounds on heads, offers of an upgrade, how bodies end, and idle connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from edgedraft.serving import http_bounds as bounds
from edgedraft.serving.http_connection import HttpConnection
from tests.edgedraft.serving.served_app import Raw, connected, served
from tests.support.waiting import until

BODY = b'{"say": "hi"}'
FRAMINGS = {
    "length": (b"content-length: 13\r\n", BODY),
    "chunks": (
        b"transfer-encoding: chunked\r\n",
        b"6;x=y\r\n" + BODY[:6] + b"\r\n7\r\n" + BODY[6:] + b"\r\n0\r\nt: 1\r\n\r\n",
    ),
}


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    async with served() as address, connected(address) as connection:
        yield connection


def status(response: bytes) -> int:
    assert response.count(b"HTTP/1.1 ") == 1, response
    return int(response.split()[1])


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
@pytest.mark.parametrize("offer", [b"h2c", b"TLS/1.2", b"foo/2, bar", b"websocket"])
async def test_an_upgrade_that_is_not_served_is_ignored(raw: Raw, offer: bytes, method: str, framing: str) -> None:
    field, body = FRAMINGS[framing]
    for _ in range(2):  # the connection is kept
        raw.send(
            method.encode()
            + b" /x?y=z HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: "
            + offer,
            b"\r\nhttp2-settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n" + field + b"\r\n" + body[:3],
        )
        await asyncio.sleep(0)
        raw.send(body[3:])
        seen = await raw.seen()
        assert (seen["method"], seen["path"], seen["query"], seen["body"]) == (method, "/x", "y=z", BODY.decode())
        assert "t" not in seen["fields"]


async def test_an_offer_without_a_body_is_answered_too(raw: Raw) -> None:
    for _ in range(2):
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await raw.seen())["method"] == "GET"


async def test_websockets_are_served() -> None:
    async with served() as (host, port), connect(f"ws://{host}:{port}/", proxy=None) as connection:
        await connection.wait_closed()
        assert connection.close_code == 1000


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /" + b"x" * bounds.MAX_TARGET + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * bounds.MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * bounds.MAX_FIELDS + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x" * 2 * bounds.MAX_HEAD, 431),
        (b"\r\n" * bounds.MAX_HEAD, 431),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ],
)
async def test_what_is_refused(raw: Raw, sent: bytes, expected: int) -> None:
    raw.send(sent)
    assert status(await raw.rest()) == expected


async def test_heads_up_to_the_bounds_are_served(raw: Raw) -> None:
    target, value = b"/" + b"x" * (bounds.MAX_TARGET - 1), b"x" * (bounds.MAX_HEAD - bounds.MAX_TARGET - 2000)
    raw.send(
        b"GET " + target + b" HTTP/1.1\r\nlong: " + value + b"\r\n", b"a: b\r\n" * (bounds.MAX_FIELDS - 1) + b"\r\n"
    )
    seen = await raw.seen()
    assert (len(seen["path"]), len(seen["fields"])) == (bounds.MAX_TARGET, bounds.MAX_FIELDS)


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"x" * 4 * bounds.MAX_HEAD, b"0\r\nt: " + b"x" * 4 * bounds.MAX_HEAD, b"0\r\n" + b"a: b\r\n" * 2000],
    ids=["a chunk's extension", "a trailer's value", "trailers"],
)
async def test_what_surrounds_a_body_is_bounded(raw: Raw, endless: bytes) -> None:
    raw.send(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n", endless)
    assert status(await raw.rest()) == 431


async def test_pipelined_requests_are_answered_in_order_and_bounded(raw: Raw) -> None:
    for number in range(bounds.MAX_PIPELINED):
        raw.send(b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx" % number)
    assert [(await raw.seen())["path"] for _ in range(bounds.MAX_PIPELINED)] == [
        f"/{number}" for number in range(bounds.MAX_PIPELINED)
    ]
    raw.send(b"GET / HTTP/1.1\r\n\r\n" * 150)
    got = await raw.rest()
    answered = got.count(b"HTTP/1.1 200")
    assert bounds.MAX_PIPELINED <= answered < 150
    assert got.count(b"HTTP/1.1 429") == 1


async def test_a_bad_request_behind_a_good_one_waits_for_its_turn(raw: Raw) -> None:
    raw.send(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n" + b"!! \r\n\r\n")
    got = await raw.rest()
    good, _, bad = got.partition(b"0\r\n\r\n")
    assert b"three" in good
    assert status(bad) == 400


async def test_http_1_0_gets_no_chunks(raw: Raw) -> None:
    raw.send(b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    head, _, body = (await raw.rest()).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert b"connection: close" in head
    assert body == b"one two three"


async def test_http_1_0_keeps_a_connection_that_it_asks_for(raw: Raw) -> None:
    for _ in range(2):
        raw.send(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        head = await raw.head()
        assert b"connection: keep-alive" in head
        await raw.reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
    raw.send(b"GET / HTTP/1.0\r\n\r\n")
    assert b"connection: close" in (await raw.rest())


async def test_a_head_request_has_a_length_and_no_body(raw: Raw) -> None:
    for path in (b"/", b"/stream"):
        raw.send(b"HEAD " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"chunked" not in await raw.head()
    raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await raw.seen())["method"] == "GET"


async def test_a_body_that_nobody_wanted_is_skipped(raw: Raw) -> None:
    raw.send(b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n")
    assert (await raw.seen())["path"] == "/unread"
    raw.send(b"x" * 500000, b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await raw.seen())["path"] == "/next"


async def test_a_body_is_asked_for_where_the_client_waits(raw: Raw) -> None:
    ask = b" HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n"
    raw.send(b"POST /" + ask)
    assert await raw.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    raw.send(BODY)
    assert (await raw.seen())["body"] == BODY.decode()
    raw.send(b"POST /unread" + ask)  # whether its body follows is the client's choice: no next head can be told
    assert b"connection: close" in await raw.rest()


async def test_an_idle_connection_is_kept_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgedraft.serving.http_bounds.HEAD_SECONDS", 0.2)
    async with served(keep_alive=2.0) as address, connected(address) as raw:
        began = 0.0
        for _ in range(2):
            raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await raw.seen()
            began = time.monotonic()
            await asyncio.sleep(0.5)  # longer than a head may take
        assert await raw.rest() == b""
        assert time.monotonic() - began >= 1.95


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET / HTTP/1.0\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
    ],
)
async def test_a_response_may_take_longer_than_a_head(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HEAD_SECONDS", 0.5)

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(1.0)
        await send({"type": "http.response.body", "body": b"the end"})

    async with served(slow) as address, connected(address) as raw:
        raw.send(head)
        async with asyncio.timeout(60):
            await raw.reader.readuntil(b"the end")


def one_large_write(size: int) -> Any:
    """An app that answers with a body of so many bytes in one write."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    return app


@pytest.mark.parametrize("head", [b"connection: close\r\n", b""], ids=["close", "keep-alive"])
async def test_the_unread_end_of_a_response_is_waited_for_in_vain_for_a_time(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "UNREAD_SECONDS", 0.3)
    lost = asyncio.Event()
    ended = HttpConnection.connection_lost
    monkeypatch.setattr(HttpConnection, "connection_lost", lambda self, exc: (lost.set(), ended(self, exc)))
    async with (
        served(one_large_write(60_000), keep_alive=0.3, send_buffer=4096) as address,
        connected(address, receive_buffer=4096) as raw,
    ):
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n")
        async with asyncio.timeout(60):
            await lost.wait()


async def test_who_reads_slowly_and_steadily_gets_all_of_a_large_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "UNREAD_SECONDS", 1.5)
    size = 2_000_000
    async with (
        served(one_large_write(size), send_buffer=4096) as address,
        connected(address, receive_buffer=4096) as raw,
    ):
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await raw.head()
        began, left = time.monotonic(), size
        while left:
            left -= len(await raw.reader.read(1 << 14))
            if time.monotonic() - began < 3.5 * (1 - left / size):
                await asyncio.sleep(0.01)


async def test_an_app_runs_until_most_of_its_response_is_sent() -> None:
    """Else a drain would not wait for it, and the server's end would cut it."""
    size, ended = 2_000_000, asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await one_large_write(size)(scope, receive, send)
        ended.set()

    async with served(app, send_buffer=1 << 16) as address, connected(address, receive_buffer=1 << 16) as raw:
        raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await raw.head()
        await asyncio.sleep(0.3)
        assert not ended.is_set()
        async with asyncio.timeout(60):
            await raw.reader.readexactly(size)
            await ended.wait()


@pytest.mark.parametrize("size", [1000, 200_000])
@pytest.mark.parametrize("head", [b"connection: close\r\n", b""], ids=["close", "keep-alive"])
async def test_a_client_that_leaves_is_noticed(head: bytes, size: int) -> None:
    left = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await asyncio.sleep(0.1)  # more arrives than is read ahead
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with served(app) as address, connected(address) as raw:
        raw.send(b"POST / HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (head, size) + bytes(size))
        await raw.writer.drain()
        await asyncio.sleep(0.3)
        raw.writer.transport.abort()
        async with asyncio.timeout(60):
            await left.wait()


UPGRADE = (
    b"host: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n"
)


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\nx: " + b"y" * 9000 + b"\r\n", b"GET /" + b"p" * 8185 + b" HTTP/1.1\r\n"],
    ids=["field", "target"],
)
async def test_a_handshake_with_a_line_that_is_too_long_is_refused(raw: Raw, sent: bytes) -> None:
    raw.send(sent + UPGRADE + b"\r\n")
    assert status(await raw.rest()) == 431


async def test_a_websocket_that_is_closing_does_not_keep_a_server_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": bytes(6_000_000)})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with served(app, send_buffer=4096) as address, connected(address, receive_buffer=4096) as raw:
        raw.send(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        await raw.head()
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw.send(b"\x88\x82\0\0\0\0\x03\xe8")
        await asyncio.sleep(0.3)


def test_idle_connections_outlive_the_pools_of_proxies() -> None:
    assert bounds.KEEP_ALIVE_SECONDS >= 75


async def test_an_app_that_fails_is_a_500_and_one_that_is_cancelled_a_503(caplog: pytest.LogCaptureFixture) -> None:
    hung: list[str] = []

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/hang":
                hung.append(scope["path"])
                await asyncio.Event().wait()
            raise ValueError("on purpose")

    async with served(fail) as address:
        async with connected(address) as raw:
            raw.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert status(await raw.rest()) == 500
        assert caplog.text.count("Traceback") == 1
        hanging = Raw(*await asyncio.open_connection(*address))
        hanging.send(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n")
        await until(lambda: bool(hung))
    assert status(await hanging.rest()) == 503
    hanging.writer.close()
    assert caplog.text.count("Traceback") == 1
