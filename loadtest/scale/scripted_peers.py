"""Both ends of a gateway at almost no cost: verifiers with a scripted text, agents that draft one token per node.

They run in the benchmark's event loop, which therefore knows how many of each event there were.
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
from loadtest.peers.gateways.script import script_tokens
from loadtest.peers.gateways.stub_verifier import CommitCounts, serve_gateway

SCRIPT_TOKENS = 2000
AGENT_SESSIONS = 8  # that an agent takes
CONFIDENCE = bytes([8])
PING_SECONDS = 20.0  # edge_agent's


@asynccontextmanager
async def listening_verifier(model: ModelCard, interval: float, counts: CommitCounts) -> AsyncIterator[str]:
    """Yields the URL of a verifier; `interval` is that of peers.gateways.stub_verifier."""
    script = script_tokens(SCRIPT_TOKENS)

    async def serve_one(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await serve_gateway(connection, model, script, interval, counts)

    async with serve(serve_one, "127.0.0.1", 0, max_size=MAX_FRAME, compression=None) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


@dataclass
class AgentCounts:
    """Commits received and frames of drafts sent by all agents of a run."""

    commits: int = 0
    draft_frames: int = 0
    extra_drafts: int = 0  # drafts beyond the first of a frame


async def attach(
    url: str, key: str, fingerprint: str, sessions: int = AGENT_SESSIONS, name: str = ""
) -> ClientConnection:
    """The socket of an agent after its welcome."""
    socket = await connect(
        url.replace("http", "ws", 1) + "/v1/agent",
        additional_headers={"Authorization": f"Bearer {key}"},
        compression=None,
        ping_interval=PING_SECONDS,
    )
    await socket.send(encode_frame([Hello(PROTOCOL, name, fingerprint, "scripted", sessions)]))
    await socket.recv()
    return socket


async def answer_commits(socket: ClientConnection, frames: int, drafts_per_frame: int, counts: AgentCounts) -> None:
    """Answers every commit with a chain of one-node drafts, in `frames` frames, until the link ends."""
    epochs: dict[int, int] = {}
    with suppress(ConnectionClosed):
        while True:
            for message in decode_to_agent(await socket.recv()):
                if isinstance(message, Open):
                    epochs[message.session] = message.epoch
                elif isinstance(message, Close):
                    epochs.pop(message.session, None)
                elif isinstance(message, Commit) and message.session in epochs:
                    counts.commits += 1
                    epochs[message.session] += 1
                    at = message.at + len(message.tokens)
                    for first in range(1, frames * drafts_per_frame + 1, drafts_per_frame):
                        drafts = [
                            Draft(message.session, epochs[message.session], at, node, [7], [node - 1], CONFIDENCE)
                            for node in range(first, first + drafts_per_frame)
                        ]
                        await socket.send(encode_frame(drafts))
                        counts.draft_frames += 1
                        counts.extra_drafts += drafts_per_frame - 1


async def stream(http: aiohttp.ClientSession, url: str, key: str, body: dict[str, Any]) -> int:
    """Sends one streamed request; returns its number of data events. Raises aiohttp.ClientError."""
    events = 0
    async with http.post(url, json=body | {"stream": True}, headers={"authorization": f"Bearer {key}"}) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            events += line.startswith(b"data: {")
    return events


async def cancel_all(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
