"""A verifier without a model: EdgeDraft's wire protocol, and a fixed text for every session.

`python -m loadtest.gateway_peers.stub_verifier NAME PACE` prints its URL. With a PACE of 0 a session gets all its
tokens in one commit; else all sessions get one token each, together, every PACE seconds, as from a forward of a batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from edgedraft.wire import (
    MAX_FRAME,
    MAX_MESSAGES,
    PROTOCOL,
    Close,
    Commit,
    ModelCard,
    Open,
    VerifierWelcome,
    encode,
    greet,
    to_verifier,
)
from loadtest.gateway_peers.script import card, tokens

MAX_SESSIONS = 4096


@dataclass
class Said:
    """A session's length in tokens, and how many of them are committed."""

    length: int
    committed: int = 0


async def speak(connection: ServerConnection, model: ModelCard, script: list[int], pace: float) -> None:
    """One gateway, until it leaves."""
    greet(to_verifier(await connection.recv()))
    await connection.send(encode([VerifierWelcome(PROTOCOL, model, MAX_SESSIONS)]))
    sessions: dict[int, Said] = {}
    ticking = asyncio.create_task(_tick(connection, sessions, script, pace)) if pace else None
    try:
        while True:
            for message in to_verifier(await connection.recv()):
                if isinstance(message, Close):
                    sessions.pop(message.session, None)
                elif isinstance(message, Open):
                    length = min(message.max_tokens, len(script))
                    if pace:
                        sessions[message.session] = Said(length)
                    else:
                        commit = Commit(message.session, 0, script[:length], finish="length")
                        await connection.send(encode([commit]))
    finally:
        if ticking:
            ticking.cancel()


async def _tick(connection: ServerConnection, sessions: dict[int, Said], script: list[int], pace: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due = max(due + pace, loop.time())
        await asyncio.sleep(due - loop.time())
        commits: list[Commit] = []
        for number, said in list(sessions.items()):
            at, said.committed = said.committed, said.committed + 1
            finish = "length" if said.committed == said.length else None
            commits.append(Commit(number, at, [script[at]], seconds=pace, finish=finish))
            if finish:
                del sessions[number]
        for first in range(0, len(commits), MAX_MESSAGES):
            await connection.send(encode(commits[first : first + MAX_MESSAGES]))


async def main(name: str, pace: float) -> None:
    model, script = card(name), tokens(2048)

    async def serve_one(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await speak(connection, model, script, pace)

    async with serve(serve_one, "127.0.0.1", 0, max_size=MAX_FRAME, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"stub verifier ready ws://127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
