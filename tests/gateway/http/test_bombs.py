"""What is small on the wire and large once it is unpacked, and what would have the gateway fetch something."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from edgedraft import wire
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY, Gateway

CHAT: dict[str, Any] = {"model": "toy", "messages": user("say hi")}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
async def test_a_compressed_body_is_not_unpacked(gateway: Gateway, encoding: str) -> None:
    async with gateway.http() as http:
        bomb = gzip.compress(json.dumps(CHAT | {"messages": user("x" * (64 << 20))}).encode(), 1)
        response = await http.post("/v1/chat/completions", content=bomb, headers={"content-encoding": encoding})
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_encoding"


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
