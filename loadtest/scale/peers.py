"""Both ends of a gateway that cost next to nothing: verifiers that say a script, agents that draft one token.

They run in the event loop of the benchmark, which so knows how many of everything there were.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from edgedraft.wire import (
    MAX_FRAME,
    PROTOCOL,
    Close,
    Commit,
    Draft,
    Hello,
    ModelCard,
    Open,
    decode_to_agent,
    encode_frame,
)
from loadtest.gateway_peers.script import tokens
from loadtest.gateway_peers.stub_verifier import Count, speak

SCRIPT = 2000
SESSIONS = 8  # that an agent takes
CONFIDENCE = bytes([8])


@asynccontextmanager
async def verifier(model: ModelCard, pace: float, count: Count) -> AsyncIterator[str]:
    """One that is listening, by its URL; `pace` is loadtest.gateway_peers.stub_verifier's."""
    script = tokens(SCRIPT)

    async def serve_one(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await speak(connection, model, script, pace, count)

    async with serve(serve_one, "127.0.0.1", 0, max_size=MAX_FRAME, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@dataclass
class Told:
    """What all agents of a run were told and said."""

    commits: int = 0
    drafts: int = 0  # frames
    more: int = 0  # drafts beyond the first of a frame


async def attach(url: str, key: str, fingerprint: str, sessions: int = SESSIONS, name: str = "") -> ClientConnection:
    """An agent that was welcomed."""
    socket = await connect(
        url.replace("http", "ws", 1) + "/v1/agent",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        ping_interval=20.0,  # as edge_agent's
    )
    await socket.send(encode_frame([Hello(PROTOCOL, name, fingerprint, "scripted", sessions)]))
    await socket.recv()
    return socket


async def draft(socket: ClientConnection, frames: int, each: int, told: Told) -> None:
    """Answer every commit with `frames` of `each` drafts, one node each and below the last, until the link ends."""
    epochs: dict[int, int] = {}
    with suppress(ConnectionClosed):
        while True:
            for message in decode_to_agent(await socket.recv()):
                if isinstance(message, Open):
                    epochs[message.session] = message.epoch
                elif isinstance(message, Close):
                    epochs.pop(message.session, None)
                elif isinstance(message, Commit) and message.session in epochs:
                    told.commits += 1
                    epochs[message.session] += 1
                    at = message.at + len(message.tokens)
                    for first in range(1, frames * each + 1, each):
                        said = [
                            Draft(message.session, epochs[message.session], at, node, [7], [node - 1], CONFIDENCE)
                            for node in range(first, first + each)
                        ]
                        await socket.send(encode_frame(said))
                        told.drafts, told.more = told.drafts + 1, told.more + each - 1


async def stream(http: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any]) -> int:
    """One streamed request; how many events with text it had. Raises aiohttp.ClientError."""
    events = 0
    async with http.post(url, json=body | {"stream": True}, headers={"authorization": f"Bearer {key}"}) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            events += line.startswith(b"data: {")
    return events


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel and wait."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
