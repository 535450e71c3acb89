"""A TCP relay that can simulate a network partition: nothing passes in either direction, no connection is closed."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 1 << 16


class Partition:
    """Relays to a port on the loopback address in its own thread; a context manager."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._connected = asyncio.Event()
        self._connected.set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self.port = 0

    def point(self, port: int) -> None:
        """Relay new connections to that port, as a load balancer does."""
        self._target = port

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._connected.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._connected.set)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._connected.wait()
        with suppress(OSError, asyncio.CancelledError):  # asyncio would report the cancellation at the end
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                await self._connected.wait()
                sink.write(data)
                await sink.drain()
        await self._connected.wait()
        sink.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
