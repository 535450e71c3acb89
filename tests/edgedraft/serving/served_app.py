"""A small ASGI app on a real socket in the test's event loop, and raw bytes to and from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from edgedraft.serving.server import server_config
from tests.support.waiting import until


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """/stream: three parts without a length. /unread: a response before the body. Else: what was received, as JSON."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    body, more = b"", scope["path"] != "/unread"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
        return
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "fields": [name.decode() for name, _ in scope["headers"]],
        "body": body.decode("latin-1"),
    }
    content = json.dumps(seen).encode()
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def served(
    app: Any = echo, keep_alive: float = 75.0, send_buffer: int | None = None
) -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # its connections' too
    server = _Server(server_config(app, 1 << 16, 20.0, 1, keep_alive))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await serving


class Raw:
    """A connection whose bytes are the test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def rest(self) -> bytes:
        """All until the connection ends. Raises TimeoutError if it does not."""
        got = b""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                while part := await self.reader.read(1 << 16):
                    got += part
        return got

    async def head(self) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def response(self) -> tuple[int, bytes]:
        """Status and body of a response that has a length."""
        head = await self.head()
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def seen(self) -> dict[str, Any]:
        """What the echo app was given; the connection is still open."""
        status, body = await self.response()
        assert status == 200
        return json.loads(body)


@contextlib.asynccontextmanager
async def connected(address: tuple[str, int], receive_buffer: int | None = None) -> AsyncIterator[Raw]:
    """With a `receive_buffer` little of a response leaves the server before it is read."""
    client = socket.socket()
    client.setblocking(False)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(client, address)
    reader, writer = await asyncio.open_connection(sock=client, limit=1 << 12)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
