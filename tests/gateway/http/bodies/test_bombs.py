"""What is small on the wire and large once it is unpacked, and what would have the gateway fetch something."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
import zlib
from functools import cache
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from edgedraft import wire
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY, Gateway
from tests.support.processor_time import no_collections

CHAT: dict[str, Any] = {"model": "toy", "messages": user("say hi")}


@cache
def packed(coding: str) -> bytes:
    """A chat of 256 MiB."""
    text = json.dumps(CHAT | {"messages": user("x" * (256 << 20))}).encode()
    return zlib.compress(text, 1) if coding == "deflate" else gzip.compress(text, 1)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
async def test_a_bomb_is_cut_off_early_and_holds_nobody_up(gateway: Gateway, coding: str) -> None:
    bomb = packed(coding.removeprefix("x-"))
    assert len(bomb) < 4 << 20  # the wire's own bound does not catch it
    longest = 0.0
    memory = psutil.Process().memory_info().rss

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    with no_collections():
        async with gateway.http() as http:
            response = await http.post("/v1/chat/completions", content=bomb, headers={"content-encoding": coding})
    watching.cancel()
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert longest < 0.1  # about a millisecond on an idle machine, and a second for all of the text
    assert psutil.Process().memory_info().rss - memory < 64 << 20
    assert not gateway.state.body_bytes.used


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip, br"])
async def test_other_codings_are_refused(gateway: Gateway, encoding: str) -> None:
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", content=b"x", headers={"content-encoding": encoding})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert response.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "identity", "", "identity, gzip"])
async def test_packed_bodies_are_read(gateway: Gateway, encoding: str) -> None:
    body = json.dumps(CHAT).encode()
    if "gzip" in encoding.lower():
        body = gzip.compress(body)
    elif encoding == "deflate":
        body = zlib.compress(body)
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", content=body, headers={"content-encoding": encoding})
    assert response.json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("damage", ["cut", "changed", "followed", "not packed"])
async def test_a_damaged_packed_body_is_a_400(gateway: Gateway, damage: str) -> None:
    body = gzip.compress(json.dumps(CHAT).encode())
    sent = {"cut": body[:-3], "changed": body[:20] + b"x" + body[21:], "followed": body + body, "not packed": b"{}"}
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", content=sent[damage], headers={"content-encoding": "gzip"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_encoding")


async def test_websockets_are_not_compressed(gateway: Gateway) -> None:
    url = gateway.url.replace("http", "ws") + "/v1/agent"
    headers = {"Authorization": f"Bearer {KEY}"}
    async with connect(url, additional_headers=headers, proxy=None, compression="deflate") as connection:
        assert connection.response
        assert "Sec-WebSocket-Extensions" not in connection.response.headers
        connection.transport.write(b"\xc2\x84\0\0\0\0\xaa\x56\x2a\x02")  # a binary frame that says it is compressed
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1002


async def test_parts_of_a_frame_count_together(gateway: Gateway) -> None:
    agent = gateway.agent()
    await agent.dial()

    async def parts():
        for _ in range(9):
            yield bytes(wire.MAX_AGENT_FRAME // 8)

    with contextlib.suppress(ConnectionClosed):
        await agent.connection.send(parts())
    assert (await agent.closing())[0] == wire.TOO_LARGE


@pytest.mark.parametrize("place", ["$ref", "$schema", "$id"])
async def test_a_schema_has_nothing_fetched(gateway: Gateway, place: str) -> None:
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/schema.json"
    schema = {"type": "object", place: url}
    async with server, gateway.http() as http:
        form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
        response = await http.post("/v1/chat/completions", json=CHAT | {"response_format": form, "max_tokens": 4})
        assert response.status_code in (200, 400)
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        assert (await http.post("/v1/chat/completions", json=CHAT | {"messages": image})).status_code == 400
    assert not asked
