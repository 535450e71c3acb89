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
    CLOSE_REFUSED,
    MAX_FRAME,
    MAX_MESSAGES,
    PROTOCOL,
    Close,
    Commit,
    ModelCard,
    Open,
    TokenLogprobs,
    VerifierWelcome,
    decode_to_verifier,
    encode_frame,
    expect_hello,
)
from loadtest.gateway_peers.script import card, tokens

MAX_SESSIONS = 4096


@dataclass
class Said:
    """A session's length in tokens, the log-probabilities it asked for (Open), and how many tokens are committed."""

    length: int
    logprobs: int
    committed: int = 0

    def next(self, session: int, script: list[int], count: int, seconds: float = 0.0) -> Commit:
        """The commit of the next `count` tokens. Each of them is as sure as can be."""
        at, self.committed = self.committed, self.committed + count
        tokens = script[at : self.committed]
        most = min(1, max(0, self.logprobs))
        told = [TokenLogprobs(0.0, [token] * most, [0.0] * most) for token in tokens]
        finish = "length" if self.committed == self.length else None
        return Commit(session, at, tokens, seconds=seconds, finish=finish, logprobs=told if self.logprobs >= 0 else [])


@dataclass
class Count:
    """What went over all links of a stub."""

    frames: int = 0  # of commits
    commits: int = 0


async def speak(
    connection: ServerConnection, model: ModelCard, script: list[int], pace: float, count: Count | None = None
) -> None:
    """One gateway, until it leaves."""
    count = count or Count()
    expect_hello(decode_to_verifier(await connection.recv()))
    await connection.send(encode_frame([VerifierWelcome(PROTOCOL, model, MAX_SESSIONS)]))
    sessions: dict[int, Said] = {}
    ticking = asyncio.create_task(_tick(connection, sessions, script, pace, count)) if pace else None
    try:
        while True:
            for message in decode_to_verifier(await connection.recv()):
                if isinstance(message, Close):
                    sessions.pop(message.session, None)
                elif isinstance(message, Open):
                    said = Said(min(message.max_tokens, len(script)), message.logprobs)
                    if message.sampling.grammar:
                        await connection.send(
                            encode_frame([Close(message.session, CLOSE_REFUSED, "no grammar is obeyed here")])
                        )
                    elif pace:
                        sessions[message.session] = said
                    else:
                        await connection.send(encode_frame([said.next(message.session, script, said.length)]))
                        count.frames, count.commits = count.frames + 1, count.commits + 1
    finally:
        if ticking:
            ticking.cancel()


async def _tick(
    connection: ServerConnection, sessions: dict[int, Said], script: list[int], pace: float, count: Count
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due = max(due + pace, loop.time())
        await asyncio.sleep(due - loop.time())
        commits: list[Commit] = []
        for number, said in list(sessions.items()):
            commits.append(said.next(number, script, 1, pace))
            if commits[-1].finish:
                del sessions[number]
        for first in range(0, len(commits), MAX_MESSAGES):
            await connection.send(encode_frame(commits[first : first + MAX_MESSAGES]))
            count.frames += 1
        count.commits += len(commits)


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
