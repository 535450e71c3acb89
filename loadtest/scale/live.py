"""Desktops and clients of a live service: those of the simulation, on a clock that is the event loop's.

A desktop drafts what the draft model would, as fast as its device's profile says, and its link delays what passes; so
many of them cost this machine little, and the simulation's are the same code.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import aiohttp
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from edgedraft.wire import Commit, Draft, Open, decode_to_agent, encode_frame
from loadtest.scale.frames import Frames
from loadtest.scale.peers import stream
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.desktop import Desktop
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Meters
from loadtest.seed.profiles import Device, Link, Way


class LoopClock(Clock):
    """The running event loop's time. Nothing is to be run: the loop does."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    @property
    def now(self) -> float:
        return self._loop.time()

    @now.setter
    def now(self, value: float) -> None:
        pass

    def at(self, time: float, do: Callable[[], None]) -> None:
        """The loop does not keep the order of what is due at the same time; this does."""
        super().at(time, do)
        self._loop.call_at(time, self._due_by, time)

    def _due_by(self, time: float) -> None:
        time = max(time, self.now)
        while self._due and self._due[0][0] <= time:
            heapq.heappop(self._due)[2]()


@dataclass
class Seen:
    """Running totals of all clients and desktops."""

    told: int = 0
    drafts: int = 0


class LiveDesktop:
    """One attached agent that takes one session at a time, until its link ends."""

    def __init__(
        self, socket: ClientConnection, chats: Sequence[Chat], edge: tuple[Device, Link, Drafts], seen: Seen, seed: int
    ) -> None:
        device, link, drafts = edge
        clock, dice = LoopClock(), random.Random(seed)
        self._up, self._down = Way(clock, link, link.up, dice), Way(clock, link, link.down, dice)
        self._socket, self._seen = socket, seen
        self._chats = {chat.prompt: chat for chat in chats}
        self._desktop = Desktop(clock, device, drafts, Meters(), Frames(clock, self._send).put)
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                frame = cast(bytes, await self._socket.recv())
                for message in decode_to_agent(frame):
                    self._down.send(len(frame), lambda message=message: self._take(message))

    def _take(self, message: object) -> None:
        if isinstance(message, Open):
            self._desktop.open(message, self._chats[tuple(message.prompt)])
        elif isinstance(message, Commit):
            self._seen.told += 1
            self._desktop.commit(message)

    def _send(self, drafts: Sequence[Draft]) -> None:
        frame = encode_frame(drafts)
        self._seen.drafts += 1

        def arrived() -> None:
            task = asyncio.create_task(self._post(frame))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

        self._up.send(len(frame), arrived)

    async def _post(self, frame: bytes) -> None:
        with suppress(ConnectionClosed):
            await self._socket.send(frame)


async def ask_on(
    http: aiohttp.ClientSession, url: str, key: str, model: str, chats: Sequence[Chat], edge: bool, seed: int
) -> None:
    """One stream after the other, for ever."""
    dice, order = random.Random(seed), list[Chat]()
    while True:
        order = order or dice.sample(chats, len(chats))
        chat = order.pop()
        body = {
            "model": model,
            "messages": [{"role": "user", "content": chat.words}],
            "max_tokens": chat.most,
            "temperature": 0,
            "edgedraft": {"edge": edge},
        }
        await stream(http, f"{url}/v1/chat/completions", key, body)
