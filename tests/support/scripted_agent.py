"""An agent of the toy model: drafts what the model will say, wrong now and then, over a real WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from edgedraft.tree import DraftTree
from edgedraft.wire import (
    MAX_WINDOW,
    PROTOCOL,
    AgentWelcome,
    Close,
    Commit,
    Draft,
    Hello,
    Open,
    decode_to_agent,
    encode_frame,
)
from tests.support import toy_model
from tests.support.waiting import until


@dataclass
class Drafting:
    """The agent's state of one session."""

    opened: Open
    tree: DraftTree
    window: int
    tip: int = 0  # the parent of the next drafted node
    wrong: set[int] = field(default_factory=set)


@dataclass
class ScriptedAgent:
    """`wrong_every` makes every n-th drafted token wrong; `mute` drafts nothing."""

    url: str
    key: str
    fingerprint: str = toy_model.FINGERPRINT
    max_sessions: int = 8
    protocol: int = PROTOCOL
    name: str = "test"
    wrong_every: int = 0
    mute: bool = False
    device: str = ""
    receive_buffer: int = 0

    opened: list[Open] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    committed: dict[int, list[int]] = field(default_factory=dict)
    drafted: int = 0
    welcome: AgentWelcome | None = None
    _socket: ClientConnection | None = None
    _task: asyncio.Task[None] | None = None
    _sessions: dict[int, Drafting] = field(default_factory=dict)

    @property
    def connection(self) -> ClientConnection:
        assert self._socket
        return self._socket

    async def __aenter__(self) -> Self:
        await self.dial()
        await self.say(
            [Hello(self.protocol, self.name, self.fingerprint, "script", self.max_sessions, device=self.device)]
        )
        self._task = task = asyncio.create_task(self._run())
        await until(lambda: self.welcome or task.done())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.die()

    async def dial(self) -> None:
        """Connect without a greeting."""
        url = self.url.replace("http://", "ws://") + "/v1/agent"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else None
        host, port = self.url.removeprefix("http://").split(":")
        raw = socket.socket()
        if self.receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        self._socket = await connect(
            url, sock=raw, additional_headers=headers, proxy=None, compression=None, close_timeout=0.2
        )

    async def die(self) -> None:
        """Disconnects abruptly."""
        self.connection.transport.abort()
        if self._task:
            await asyncio.gather(self._task, return_exceptions=True)

    async def say(self, messages: Sequence[Struct]) -> None:
        await self.connection.send(encode_frame(messages))

    async def closing(self) -> tuple[int | None, str | None]:
        """Close code and reason, once the gateway has closed."""
        async with asyncio.timeout(60):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason

    async def _run(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self.connection:
                for message in decode_to_agent(frame):
                    await self._handle(message)

    async def _handle(self, message: object) -> None:
        match message:
            case AgentWelcome():
                self.welcome = message
            case Open():
                self.opened.append(message)
                self.committed[message.session] = list(message.committed)
                known = self._sessions.get(message.session)
                epoch = max(message.epoch, known.tree.epoch if known else 0) + 1
                tree = DraftTree(MAX_WINDOW, message.committed, epoch)
                session = self._sessions[message.session] = Drafting(message, tree, message.window)
                await self._draft(session)
            case Commit() if session := self._sessions.get(message.session):
                self.committed[message.session] += message.tokens
                session.tree.commit(message.at, message.tokens)
                session.window = message.window
                if session.tree.surplus:
                    session.tree.start_epoch()
                    session.tip = 0
                if message.finish is None:
                    await self._draft(session)
            case Close():
                self.closed.append(message.session)
                self._sessions.pop(message.session, None)

    async def _draft(self, session: Drafting) -> None:
        tree, opened = session.tree, session.opened
        count = min(session.window, 16) - len(tree)
        if self.mute or count <= 0:
            return
        first, tip = tree.next_id, session.tip
        if tip not in {node.id for node in tree.live_nodes()}:
            tip = tree.cursor
        text = [*tree.committed, *tree.path(tip)]
        tokens, parents = [], []
        for offset in range(count):
            token = toy_model.next_token(opened.prompt, opened.sampling, text)
            self.drafted += 1
            if self.wrong_every and self.drafted % self.wrong_every == 0:
                token = (token + 1) % toy_model.VOCAB_SIZE
            text.append(token)
            tokens.append(token)
            parents.append(tip if offset == 0 else first + offset - 1)
        session.tip = first + count - 1
        confidence = bytes([1] * count)
        tree.add(tree.epoch, tree.at, first, tokens, parents, confidence)
        await self.say([Draft(opened.session, tree.epoch, tree.at, first, tokens, parents, confidence)])
