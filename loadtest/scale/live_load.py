"""Agents and clients of a live service: the simulation's own agents, on a clock that is the event loop's.

An agent drafts what the draft model proposes at its device profile's speed, and its link delays messages, so that many
of them cost this machine little and behave as in the simulation.
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
from loadtest.scale.scripted_peers import stream
from loadtest.simulator.agent import SimulatedAgent
from loadtest.simulator.clock import Clock
from loadtest.simulator.measurement import Meters
from loadtest.simulator.network import DraftBatcher, LinkDirection
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat


class LoopClock(Clock):
    """The running event loop's time. `run` is not needed: the loop calls what is due."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()

    @property
    def now(self) -> float:
        return self._loop.time()

    @now.setter
    def now(self, value: float) -> None:
        pass

    def call_at(self, time: float, callback: Callable[[], None]) -> None:
        """Keeps the order of callbacks that are due at the same time, which the loop does not."""
        super().call_at(time, callback)
        self._loop.call_at(time, self._run_due, time)

    def _run_due(self, time: float) -> None:
        time = max(time, self.now)
        while self._due and self._due[0][0] <= time:
            heapq.heappop(self._due)[2]()


@dataclass
class FrameCounts:
    """Running totals of all agents: commits received and frames of drafts sent."""

    agent_commits: int = 0
    draft_frames: int = 0


class LiveAgent:
    """An attached agent that serves one session at a time until its link ends."""

    def __init__(
        self,
        socket: ClientConnection,
        chats: Sequence[RecordedChat],
        edge: EdgeProfile,
        counts: FrameCounts,
        seed: int,
    ) -> None:
        clock, rng, link = LoopClock(), random.Random(seed), edge.link
        self._uplink = LinkDirection(clock, link, link.uplink_bps, rng)
        self._downlink = LinkDirection(clock, link, link.downlink_bps, rng)
        self._socket, self._counts = socket, counts
        self._chats = {chat.prompt: chat for chat in chats}
        self._agent = SimulatedAgent(clock, edge, Meters(), DraftBatcher(clock, self._send).put)
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                frame = cast(bytes, await self._socket.recv())
                for message in decode_to_agent(frame):
                    self._downlink.send(len(frame), lambda message=message: self._receive(message))

    def _receive(self, message: object) -> None:
        if isinstance(message, Open):
            self._agent.open(message, self._chats[tuple(message.prompt)])
        elif isinstance(message, Commit):
            self._counts.agent_commits += 1
            self._agent.commit(message)

    def _send(self, drafts: Sequence[Draft]) -> None:
        frame = encode_frame(drafts)
        self._counts.draft_frames += 1

        def arrived() -> None:
            task = asyncio.create_task(self._post(frame))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

        self._uplink.send(len(frame), arrived)

    async def _post(self, frame: bytes) -> None:
        with suppress(ConnectionClosed):
            await self._socket.send(frame)


async def send_requests(
    http: aiohttp.ClientSession, url: str, key: str, model: str, chats: Sequence[RecordedChat], edge: bool, seed: int
) -> None:
    """One client of a closed loop: one stream after the other until cancelled."""
    rng, queue = random.Random(seed), list[RecordedChat]()
    while True:
        queue = queue or rng.sample(chats, len(chats))
        chat = queue.pop()
        body = {
            "model": model,
            "messages": [{"role": "user", "content": chat.message}],
            "max_tokens": chat.max_tokens,
            "temperature": 0,
            "edgedraft": {"edge": edge},
        }
        await stream(http, f"{url}/v1/chat/completions", key, body)
