"""Clients that are slow on purpose: each loses its own connection in time, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.gateway.api.test_chat import complete, user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
CHAT = {"model": "toy", "messages": user("say hi")}


async def connected(gateway: Gateway, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    host, port = gateway.url.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    return await asyncio.open_connection(sock=raw, limit=1 << 10)


def request(body: bytes, length: int | None = None) -> bytes:
    return HEAD + f"content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


async def cut(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the connection ends."""
    got = b""
    async with asyncio.timeout(60):
        try:
            while part := await reader.read(1 << 16):
                got += part
        except ConnectionResetError:
            pass
    return got


@pytest.mark.parametrize("begun", [b"", b"GET /v1/mod", HEAD, HEAD + b"upgrade: websocket\r\n"])
async def test_a_head_that_does_not_end_costs_its_connection(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("edgedraft.serving.http_bounds.HEAD_SECONDS", 0.3)
    reader, writer = await connected(gateway)
    writer.write(begun)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.02)
            writer.write(b"x" if begun else b"")

    dripping = asyncio.create_task(drip())
    assert await cut(reader) == b""
    dripping.cancel()
    assert (await complete(gateway, messages=user("say hi")))["choices"][0]["message"]["content"] == "hi"


async def test_so_does_a_second_head_on_a_connection_that_is_kept(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedraft.serving.http_bounds.HEAD_SECONDS", 0.3)
    reader, writer = await connected(gateway)
    for _ in range(2):
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
    writer.write(HEAD)
    assert await cut(reader) == b""


async def test_a_generation_may_take_longer_than_any_of_them(
    gateway: Gateway, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedraft.serving.http_bounds.HEAD_SECONDS", 0.2)
    monkeypatch.setattr("gateway.http.bodies.body.BODY_SECONDS", 0.2)
    verifier.step = 0.15
    assert (await complete(gateway, messages=user("babble"), max_tokens=5))["usage"]["completion_tokens"] == 5


async def test_a_body_that_does_not_end_is_a_408(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.bodies.body.BODY_SECONDS", 0.3)
    monkeypatch.setattr("edgedraft.serving.http_bounds.HEAD_SECONDS", 0.3)
    reader, writer = await connected(gateway)
    writer.write(request(b'{"model": "t', length=100))
    answer = await cut(reader)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert not gateway.state.admission._running


@pytest.mark.parametrize("key", [b"", b"authorization: Bearer ed-wrong\r\n"])
async def test_without_a_key_no_body_is_waited_for(gateway: Gateway, key: bytes) -> None:
    reader, writer = await connected(gateway)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n" + key + b"\r\n")
    async with asyncio.timeout(30):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()


async def test_a_stream_that_nobody_reads_ends_its_generation(
    tmp_path: Path, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgedraft.serving.http_bounds.UNREAD_SECONDS", 0.3)
    verifier.step = 0.005  # ten seconds of text, so that the unread buffer is full long before its end
    async with running_gateway(tmp_path, verifier, small_buffers=True) as gateway:
        _, writer = await connected(gateway, receive_buffer=1 << 12)
        endless = CHAT | {"messages": user("babble"), "stream": True, "max_tokens": 1900, "n": 4}
        writer.write(request(json.dumps(endless).encode()))
        try:
            await until(lambda: gateway.state.metrics.sessions._value.get() > 0)
            await until(lambda: gateway.state.metrics.sessions._value.get() == 0)
            await until(lambda: not gateway.state.admission._running)
        finally:
            writer.transport.abort()
        await until(lambda: bool(verifier.cancelled))  # by the client's silence, not by its last token


async def test_an_agent_that_stops_in_mid_frame_is_gone_with_its_pings(
    tmp_path: Path, verifier: ScriptedVerifier
) -> None:
    async with running_gateway(tmp_path, verifier, ping_seconds=0.2) as gateway, gateway.agent() as agent:
        assert gateway.state.agents.attached()
        agent.connection.transport.write(b"\x82\xfe\xff\xff\0\0\0\0" + bytes(1000))  # of 65,535 bytes
        await until(lambda: not gateway.state.agents.attached())
