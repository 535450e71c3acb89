"""A WebSocket client and server on bare sockets, which send whatever bytes a test wants and read only when told to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    mask: bytes = bytes(4),
    length: int | None = None,
    long: bool = False,
) -> bytes:
    """One frame; `length` is what its head says, if not the truth, and `long` in more bytes than are needed."""
    size = len(payload) if length is None else length
    head = bytes([(fin << 7) | (reserved << 4) | opcode])
    if masked and any(mask):
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    if size < 126 and not long:
        head += bytes([(masked << 7) | size])
    elif size < 1 << 16:
        head += bytes([(masked << 7) | 126]) + struct.pack("!H", size)
    else:
        head += bytes([(masked << 7) | 127]) + struct.pack("!Q", size)
    return head + (mask if masked else b"") + payload


@dataclass
class RawWebSocket:
    """One end of a connection whose handshake is over, `status` being what it was answered."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 101

    async def send(self, data: bytes, seconds: float = 20.0) -> None:
        """Send bytes. Raises ConnectionError when the peer has cut the connection; TimeoutError if it does not read."""
        async with asyncio.timeout(seconds):
            self.writer.write(data)
            await self.writer.drain()

    async def read_until_cut(self, seconds: float = 20.0) -> bytes:
        """Everything that still comes before the connection ends. Raises TimeoutError if it does not end."""
        got = b""
        async with asyncio.timeout(seconds):
            try:
                while part := await self.reader.read(1 << 16):
                    got += part
            except ConnectionError:
                pass
        return got

    def close(self) -> None:
        self.writer.transport.abort()


async def dial(
    url: str, headers: Mapping[str, str] | None = None, *, receive_buffer: int = 0, after: bytes = b""
) -> RawWebSocket:
    """Open a WebSocket; `after` is sent at once behind the request, without waiting for the answer."""
    parts = urlsplit(url)
    raw = socket.socket()
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (parts.hostname or "", parts.port or 80))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1 << 16)
    lines = [
        f"GET {parts.path or '/'} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode() + after)
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    except (asyncio.IncompleteReadError, ConnectionError):
        return RawWebSocket(reader, writer, 0)
    return RawWebSocket(reader, writer, int(head.split(b" ", 2)[1]))


@asynccontextmanager
async def serving(behave: Callable[[RawWebSocket], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that accepts every WebSocket and then behaves as told; yields its ws:// URL."""
    open_sockets: list[RawWebSocket] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = RawWebSocket(reader, writer)
        open_sockets.append(end)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            [key] = [
                line.split(":", 1)[1].strip()
                for line in head.split("\r\n")
                if line.lower().startswith("sec-websocket-key:")
            ]
            answer = base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()
            await end.send(
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {answer}\r\n\r\n".encode()
            )
            await behave(end)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            end.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 16)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for end in open_sockets:
            end.close()
