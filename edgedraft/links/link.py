"""One link: greeting, frames in both directions until either side ends it, and closing with a code and a reason.

All five WebSocket ends (agent and gateway, gateway and verifier, replicas) run on this class. It knows frames, timeouts
and how a link ends; which messages a frame may hold and what they mean is its owner's concern.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from msgspec import Struct

from edgedraft.links.outbox import Outgoing, PeerTooSlow
from edgedraft.links.race import race
from edgedraft.links.settings import LinkSettings
from edgedraft.links.transport import Transport
from edgedraft.wire import TIMEOUT, Hello, WireError, encode_frame, expect_hello

Frame = bytes | str
TRY_AGAIN_LATER = 1013  # "try again later" in the IANA registry of RFC 6455 close codes


class Link:
    """An open WebSocket with the settings of its kind."""

    def __init__(self, transport: Transport, settings: LinkSettings) -> None:
        self._transport = transport
        self._settings = settings

    async def greet(self, hello: Hello) -> Frame:
        """Send `hello`; returns the peer's first frame. Raises TimeoutError or TransportClosed."""
        async with asyncio.timeout(self._settings.greeting_timeout):
            await self._transport.send(encode_frame([hello]))
            return await self._transport.receive()

    async def receive_hello(self, decode: Callable[[Frame], Sequence[object]]) -> Hello:
        """The peer's hello, which must be its first frame. Raises WireError or TransportClosed."""
        seconds = self._settings.greeting_timeout
        try:
            async with asyncio.timeout(seconds):
                frame = await self._transport.receive()
        except TimeoutError:
            raise WireError(TIMEOUT, f"no hello in {seconds:g} seconds") from None
        return expect_hello(decode(frame))

    async def send(self, messages: Sequence[Struct]) -> None:
        """Send one frame. Raises PeerTooSlow or TransportClosed."""
        seconds = self._settings.send_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._transport.send(encode_frame(messages))
        except TimeoutError:
            raise PeerTooSlow(f"a frame was not read in {seconds:g} seconds") from None

    async def run(
        self,
        outgoing: Outgoing,
        on_frame: Callable[[Frame], Awaitable[None]],
        *watchers: Coroutine[Any, Any, None],
    ) -> None:
        """Relay in both directions until the link ends; always raises the reason.

        TransportClosed if the peer closed or the connection broke, PeerTooSlow if it does not read, and whatever
        `outgoing`, `on_frame` or one of the `watchers` raises, a WireError for a peer that breaks the protocol. The
        next frame is received when `on_frame` has returned. The connection is left to be closed by the caller.
        """
        await race(self._receive(on_frame), self._send(outgoing), outgoing.overflow(), *watchers)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, giving the peer the reason if it still reads. Takes at most the close timeout; never raises."""
        await self._transport.close(code, reason)

    async def _receive(self, on_frame: Callable[[Frame], Awaitable[None]]) -> None:
        while True:
            await on_frame(await self._transport.receive())

    async def _send(self, outgoing: Outgoing) -> None:
        while True:
            await self.send(await outgoing.next_batch())
