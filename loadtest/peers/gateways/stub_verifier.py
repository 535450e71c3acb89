"""A verifier without a model: EdgeDraft's wire protocol, and a fixed text for every session.

`python -m loadtest.peers.gateways.stub_verifier NAME INTERVAL` prints its URL. With an INTERVAL of 0 a session gets all
its tokens in one commit; otherwise all sessions get one token together every INTERVAL seconds, as from a batched step.
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
from loadtest.peers.gateways.script import model_card, script_tokens

MAX_SESSIONS = 4096


@dataclass
class ScriptedSession:
    """A session: its length in tokens, Open.logprobs, and how many tokens are committed."""

    length: int
    logprobs: int
    committed: int = 0

    def next(self, session: int, script: list[int], count: int, seconds: float = 0.0) -> Commit:
        """The commit of the next `count` tokens, each with probability 1."""
        at, self.committed = self.committed, self.committed + count
        tokens = script[at : self.committed]
        alternatives = min(1, max(0, self.logprobs))
        logprobs = [TokenLogprobs(0.0, [token] * alternatives, [0.0] * alternatives) for token in tokens]
        finish = "length" if self.committed == self.length else None
        return Commit(
            session, at, tokens, seconds=seconds, finish=finish, logprobs=logprobs if self.logprobs >= 0 else []
        )


@dataclass
class CommitCounts:
    """Running totals over all links of a stub."""

    frames: int = 0  # of commits
    commits: int = 0


async def serve_gateway(
    connection: ServerConnection,
    model: ModelCard,
    script: list[int],
    interval: float,
    counts: CommitCounts | None = None,
) -> None:
    """Serves one gateway until it disconnects."""
    counts = counts or CommitCounts()
    expect_hello(decode_to_verifier(await connection.recv()))
    await connection.send(encode_frame([VerifierWelcome(PROTOCOL, model, MAX_SESSIONS)]))
    sessions: dict[int, ScriptedSession] = {}
    ticker = asyncio.create_task(_tick(connection, sessions, script, interval, counts)) if interval else None
    try:
        while True:
            for message in decode_to_verifier(await connection.recv()):
                if isinstance(message, Close):
                    sessions.pop(message.session, None)
                elif isinstance(message, Open):
                    session = ScriptedSession(min(message.max_tokens, len(script)), message.logprobs)
                    if message.sampling.grammar:
                        await connection.send(
                            encode_frame(
                                [Close(message.session, CLOSE_REFUSED, "grammars are not supported by the stub")]
                            )
                        )
                    elif interval:
                        sessions[message.session] = session
                    else:
                        await connection.send(encode_frame([session.next(message.session, script, session.length)]))
                        counts.frames, counts.commits = counts.frames + 1, counts.commits + 1
    finally:
        if ticker:
            ticker.cancel()


async def _tick(
    connection: ServerConnection,
    sessions: dict[int, ScriptedSession],
    script: list[int],
    interval: float,
    counts: CommitCounts,
) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due = max(due + interval, loop.time())
        await asyncio.sleep(due - loop.time())
        commits: list[Commit] = []
        for number, session in list(sessions.items()):
            commits.append(session.next(number, script, 1, interval))
            if commits[-1].finish:
                del sessions[number]
        for first in range(0, len(commits), MAX_MESSAGES):
            await connection.send(encode_frame(commits[first : first + MAX_MESSAGES]))
            counts.frames += 1
        counts.commits += len(commits)


async def main(name: str, interval: float) -> None:
    model, script = model_card(name), script_tokens(2048)

    async def serve_one(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await serve_gateway(connection, model, script, interval)

    async with serve(serve_one, "127.0.0.1", 0, max_size=MAX_FRAME, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"stub verifier ready ws://127.0.0.1:{port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
