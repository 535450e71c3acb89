"""A verifier of the toy model: the real wire over a real WebSocket, and failures at will."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from edgedraft.tree import DraftTree
from edgedraft.wire import (
    CLOSE_OVERLOADED,
    MAX_FRAME,
    MAX_WINDOW,
    PROTOCOL,
    AgentChanged,
    Close,
    Commit,
    Draft,
    Open,
    Queued,
    VerifierWelcome,
    decode_to_verifier,
    encode_frame,
    expect_hello,
)
from tests.support import toy_model


@dataclass
class OpenSession:
    """One session at this verifier; `fed` is set whenever something came for it."""

    message: Open
    tree: DraftTree
    edge: bool
    fed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass
class ScriptedVerifier:
    """The first fields configure it, those from `opened` on record what happened.

    `step` is seconds of a forward, `draft_wait` of waiting for a draft.
    """

    step: float = 0.002
    draft_wait: float = 0.5
    forwards: asyncio.Event = field(default_factory=asyncio.Event)  # none begins while it is cleared
    max_sessions: int = 64
    max_waiting: int = 0
    card: toy_model.ModelCard = field(default_factory=toy_model.card)
    protocol: int = PROTOCOL
    token: str = ""
    refuse: str = ""  # a CLOSE_* code for every Open
    retry_after: float = 0.0
    die_at: int | None = None  # output tokens after which the process is gone
    silent_at: int | None = None  # output tokens after which it sends nothing more
    fail_at: int | None = None  # output tokens after which the session fails
    garble_at: int | None = None  # output tokens after which a commit is out of place
    fail_always: bool = False  # every session fails
    garble_always: bool = False  # every commit is out of place

    opened: list[Open] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    edges: list[bool] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    connections: set[ServerConnection] = field(default_factory=set)
    port: int = 0
    host: str = "127.0.0.1"
    _server: Server | None = None
    _slots: asyncio.Semaphore | None = None

    def __post_init__(self) -> None:
        self.forwards.set()

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._link,
            self.host,
            self.port,
            process_request=self._check_token,
            max_size=MAX_FRAME,
            compression=None,
            close_timeout=0.1,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Closes all connections abruptly, as when the process is killed."""
        if self._server:
            server, self._server = self._server, None
            for connection in list(self.connections):
                connection.transport.abort()
            server.close()
            await server.wait_closed()

    def _check_token(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return connection.respond(HTTPStatus.UNAUTHORIZED, "wrong token\n")
        return None

    async def _link(self, connection: ServerConnection) -> None:
        self.connections.add(connection)
        sessions: dict[int, OpenSession] = {}
        try:
            expect_hello(decode_to_verifier(await connection.recv()))
            await connection.send(
                encode_frame([VerifierWelcome(self.protocol, self.card, self.max_sessions + self.max_waiting)])
            )
            async for frame in connection:
                for message in decode_to_verifier(frame):
                    await self._handle(connection, sessions, message)
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(connection)
            for session in sessions.values():
                if session.task:
                    session.task.cancel()

    async def _handle(self, connection: ServerConnection, sessions: dict[int, OpenSession], message: object) -> None:
        match message:
            case Open():
                self.opened.append(message)
                if self.refuse:
                    await connection.send(
                        encode_frame([Close(message.session, self.refuse, "scripted", self.retry_after)])
                    )
                    return
                alive = sum(1 for session in sessions.values() if session.task and not session.task.done())
                if alive >= self.max_sessions + self.max_waiting:
                    await connection.send(
                        encode_frame([Close(message.session, CLOSE_OVERLOADED, "full", self.retry_after)])
                    )
                    return
                if alive >= self.max_sessions:
                    await connection.send(encode_frame([Queued(message.session, alive - self.max_sessions)]))
                tree = DraftTree(MAX_WINDOW, message.committed, message.epoch)
                session = sessions[message.session] = OpenSession(message, tree, bool(message.agent))
                session.task = asyncio.create_task(self._generate(connection, session))
            case Draft() if session := sessions.get(message.session):
                self.drafts.append(message)
                try:
                    session.tree.add(
                        message.epoch, message.at, message.first, message.tokens, message.parents, message.confidence
                    )
                except Exception as error:
                    self.violations.append(str(error))
                session.fed.set()
            case AgentChanged() if session := sessions.get(message.session):
                self.edges.append(bool(message.agent))
                session.edge = bool(message.agent)
                session.fed.set()
            case Close() if session := sessions.pop(message.session, None):
                self.cancelled.append(message.session)
                if session.task:
                    session.task.cancel()

    async def _generate(self, connection: ServerConnection, session: OpenSession) -> None:
        opened, tree = session.message, session.tree
        self._slots = self._slots or asyncio.Semaphore(self.max_sessions)
        async with self._slots:
            with contextlib.suppress(ConnectionClosed):
                await self._steps(connection, session, opened, tree)

    async def _steps(self, connection: ServerConnection, session: OpenSession, opened: Open, tree: DraftTree) -> None:
        while True:
            await asyncio.sleep(self.step)
            await self.forwards.wait()
            done = len(tree.committed)
            if self.die_at is not None and done >= self.die_at:
                self.die_at = None
                await self.stop()
                return
            if self.silent_at is not None and done >= self.silent_at:
                return
            if self.fail_always or (self.fail_at is not None and done >= self.fail_at):
                self.fail_at = None
                await connection.send(encode_frame([Close(opened.session, "failed", "scripted")]))
                return
            if session.edge and (tree.surplus or not len(tree)):
                session.fed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.fed.wait(), self.draft_wait)
            commit = self._verify(session)
            if self.garble_always or (self.garble_at is not None and done >= self.garble_at):
                self.garble_at = None
                commit = Commit(commit.session, commit.at + 1, commit.tokens)
            self.commits.append(commit)
            await connection.send(encode_frame([commit]))
            if commit.finish:
                return

    def _verify(self, session: OpenSession) -> Commit:
        """One forward: walk down the tree while the child is right, and one token more."""
        opened, tree = session.message, session.tree
        at, slice_ = len(tree.committed), tree.select(8)
        tokens: list[int] = []
        place, accepted, finish = -1, 0, None
        while True:
            token = toy_model.next_token(opened.prompt, opened.sampling, [*tree.committed, *tokens])
            tokens.append(token)
            child = next(
                (i for i, parent in enumerate(slice_.parents) if parent == place and slice_.tokens[i] == token), None
            )
            accepted += child is not None
            finish = "stop" if token in opened.eos else "length" if at + len(tokens) >= opened.max_tokens else None
            if finish or child is None:
                break
            place = child
        logprobs = []
        if opened.logprobs >= 0:
            texts = [[*tree.committed, *tokens[:i]] for i in range(len(tokens))]
            logprobs = [
                toy_model.logprobs(opened.prompt, text, token, opened.logprobs)
                for text, token in zip(texts, tokens, strict=True)
            ]
        tree.commit(at, tokens)
        depth = max(slice_.depths, default=0)
        return Commit(opened.session, at, tokens, 16, len(slice_), depth, accepted, 0.001, finish, logprobs=logprobs)
