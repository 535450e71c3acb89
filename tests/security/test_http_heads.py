"""Attack: heads, values, targets, trailers and pipelines without an end, from many connections, without a key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_processes import ServerUnderTest, running_servers

CONNECTIONS = 60
MOST = 64 << 20  # bytes that each connection would send: more than the system's socket buffers hold
PART = 1 << 16
GROWTH = 48 << 20
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
ENDLESS = {  # how it begins, and what then comes again and again
    "target": (b"GET /", b"x"),
    "one value": (b"GET / HTTP/1.1\r\na: ", b"x"),
    "one name": (b"GET / HTTP/1.1\r\n", b"x"),
    "fields": (b"GET / HTTP/1.1\r\n", b"a: bcd\r\n"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (CHUNKED + b"1;", b"x"),
    "trailers": (CHUNKED + b"0\r\n", b"a: bcd\r\n"),
    "pipelined": (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerUnderTest]]:
    with running_servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


async def flood(server: ServerUnderTest, begin: bytes, again: bytes) -> tuple[int, bytes]:
    """Returns the bytes that were sent before the connection ended, and what came back."""
    reader, writer = await asyncio.open_connection(*server.address)
    got = b""

    async def read() -> None:
        nonlocal got
        with contextlib.suppress(OSError):
            while part := await reader.read(PART):
                got = (got + part)[: 1 << 20]

    reading, sent = asyncio.create_task(read()), 0
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(30):
            writer.write(begin)
            while sent < MOST and not reading.done():
                writer.write(again * (PART // len(again)))
                await writer.drain()
                sent += PART
            await reading
    writer.transport.abort()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return sent, got


async def is_healthy(server: ServerUnderTest) -> bool:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(60):
        answer = await reader.readline()
    writer.close()
    return b"200" in answer


@pytest.mark.long
@pytest.mark.parametrize("name", ["gateway", "verifier"])
@pytest.mark.parametrize("endless", ENDLESS)
async def test_nothing_grows_with_what_has_no_end(
    servers: dict[str, ServerUnderTest], name: str, endless: str, tmp_path: Path
) -> None:
    server = servers[name]
    assert await is_healthy(server)
    before = peak = server.memory()
    floods = asyncio.gather(*(flood(server, *ENDLESS[endless]) for _ in range(CONNECTIONS)))
    while not floods.done():
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.02))])
        peak = max(peak, server.memory())
    assert await is_healthy(server)
    assert peak - before < GROWTH
    for sent, got in await floods:
        assert sent < MOST, "the server read on"
        if endless != "pipelined":  # whose first requests are answered
            assert b"HTTP/1.1 4" in got or not got  # reset, where the client was faster than its reading
    assert "Traceback" not in server.log.read_text()
