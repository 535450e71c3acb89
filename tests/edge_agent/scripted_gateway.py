"""A gateway that speaks the real wire over a real socket and plays the verifier of texts that are known beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from types import TracebackType

from msgspec import Struct
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from edge_agent.attach.address import agent_url
from edge_agent.attach.attachment import Agent, stay_attached
from edge_agent.drafters.interface import Drafter
from edge_agent.drafting.stats import StatsCollector
from edgedraft import wire
from edgedraft.tree import DraftSlice, DraftTree
from edgedraft.wire import AgentWelcome, Commit, Draft, FinishReason, Hello, Open, Sampling

GREEDY = Sampling(temperature=0.0)
WAIT_SECONDS = 60.0


class ScriptedSession:
    """A scripted session at the attached agent; `text` is what the target writes after the prompt."""

    def __init__(self, gateway: ScriptedGateway, opened: Open, text: Sequence[int]) -> None:
        self.gateway, self.opened, self.text = gateway, opened, list(text)
        self.number = opened.session
        self.window = opened.window
        self.tree = DraftTree(wire.MAX_WINDOW, opened.committed)
        self.drafts: list[Draft] = []
        self.widest = 0
        self.accepted = 0
        self.num_favourites = 0
        self.steps = 0

    def take(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)
        self.widest = max(self.widest, len(self.tree))

    async def nodes(self, count: int) -> None:
        """Until the tree holds `count` live nodes."""
        await until(lambda: len(self.tree) >= count)

    async def commit(self, tokens: Sequence[int], accepted: int = 0, finish: FinishReason | None = None) -> None:
        at = len(self.tree.committed)
        self.tree.commit(at, tokens)
        await self.gateway.send(
            Commit(self.number, at, list(tokens), window=self.window, accepted=accepted, finish=finish)
        )

    async def verify(self, budget: int = 8) -> int:
        """One verify over the most confident nodes; returns how many were right."""
        draft = self.tree.select(budget)
        at, node, right = len(self.tree.committed), -1, 0
        while at + right < len(self.text):
            below = [i for i, parent in enumerate(draft.parents) if parent == node]
            node = next((i for i in below if draft.tokens[i] == self.text[at + right]), -2)
            if node < 0:
                break
            right += 1
        self.num_favourites += favourite_path(draft)
        self.steps += 1
        self.accepted += right
        await self.commit(self.text[at : at + right + 1], right)
        return right

    async def finish(self, wait: float = 2.0) -> None:
        """Verify to the end of the text, each time once there is a draft."""
        while len(self.tree.committed) < len(self.text):
            with suppress(TimeoutError):
                await until(lambda: len(self.tree) >= min(3, self.left), wait)
            await self.verify()

    @property
    def left(self) -> int:
        return len(self.text) - len(self.tree.committed)


def favourite_path(draft: DraftSlice) -> int:
    """How many nodes there are on the path that always takes the most confident child."""
    node, length = -1, 0
    while below := [i for i, parent in enumerate(draft.parents) if parent == node]:
        node, length = min(below, key=lambda i: draft.costs[i]), length + 1
    return length


class ScriptedGateway:
    """Listens on a free port of this machine.

    `status` refuses the handshake, `close_code` closes after the hello.
    """

    def __init__(
        self,
        vocab_size: int,
        status: int = 0,
        close_code: int = 0,
        max_sessions: int = 64,
        protocol: int = wire.PROTOCOL,
    ) -> None:
        self.status, self.close_code = status, close_code
        self.welcome: Sequence[Struct] = [AgentWelcome(protocol, "agent-1", "tiny", vocab_size, max_sessions)]
        self.hellos: list[Hello] = []
        self.keys: list[str] = []
        self.connections: list[ServerConnection] = []
        self.closes: list[tuple[int, str]] = []
        self.failures: list[Exception] = []
        self.sessions: dict[int, ScriptedSession] = {}
        self._server: Server | None = None

    async def __aenter__(self) -> ScriptedGateway:
        self._server = await serve(self._serve, "127.0.0.1", 0, process_request=self._admit, compression=None)
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        assert not self.failures

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{next(iter(self._server.sockets)).getsockname()[1]}"

    async def attached(self, times: int = 1) -> None:
        await until(lambda: len(self.connections) >= times)

    async def greeted(self, connection: ServerConnection) -> None:
        """What happens between hello and welcome."""

    async def send(self, *messages: Struct) -> None:
        await self.send_raw(wire.encode_frame(messages))

    async def send_raw(self, frame: bytes | str) -> None:
        await self.connections[-1].send(frame)

    async def open(
        self,
        prompt: Sequence[int],
        text: Sequence[int],
        sampling: Sampling = GREEDY,
        committed: int = 0,
        window: int = 16,
        number: int = 0,
        max_tokens: int = 0,
        epoch: int = 0,
        eos: tuple[int, ...] = (),
    ) -> ScriptedSession:
        """Open a session, or with `number` one again, with that much of its text committed."""
        opened = Open(
            session=number or len(self.sessions) + 1,
            prompt=list(prompt),
            sampling=sampling,
            max_tokens=max_tokens or len(text),
            committed=list(text[:committed]),
            window=window,
            epoch=epoch,
            eos=eos,
        )
        session = self.sessions[opened.session] = ScriptedSession(self, opened, text)
        await self.send(opened)
        return session

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.keys.append(request.headers["Authorization"])
        assert request.path == "/v1/agent"
        return connection.respond(HTTPStatus(self.status), "no\n") if self.status else None

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            self.hellos.append(wire.expect_hello(wire.decode_from_agent(await connection.recv())))
            if self.close_code:
                await connection.close(self.close_code, "as scripted")
                return
            await self.greeted(connection)
            await connection.send(wire.encode_frame(self.welcome))
            self.connections.append(connection)
            async for frame in connection:
                for message in wire.decode_from_agent(frame):
                    assert isinstance(message, Draft)
                    self.sessions[message.session].take(message)
        except ConnectionClosed:
            pass
        except Exception as error:
            self.failures.append(error)
        self.closes.append((connection.close_code or 0, connection.close_reason or ""))


async def until(true: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for changes in many places
            await asyncio.sleep(0.002)


class Watch:
    """Records what it observes."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.losses: list[str] = []
        self.moves: list[str] = []
        self.round_trips: list[float] = []

    def attached(self, welcome: AgentWelcome) -> None:
        self.names.append(welcome.agent)

    def round_trip(self, seconds: float) -> None:
        self.round_trips.append(seconds)

    def lost(self, why: str, again_in: float) -> None:
        self.losses.append(why)

    def moving(self, why: str) -> None:
        self.moves.append(why)

    def paused(self, why: str) -> None:
        raise AssertionError("nobody asked")


class Attached:
    """An agent that runs in this process, attached to a scripted gateway."""

    def __init__(self, gateway: ScriptedGateway, drafter: Callable[[int], Drafter], max_sessions: int = 8) -> None:
        hello = Hello(wire.PROTOCOL, "test", "f1", "drafter", max_sessions)
        self.stats = StatsCollector()
        self.watch = Watch()
        self.agent = Agent(
            agent_url(gateway.url), "secret", hello, lambda size, _: drafter(size), self.stats, self.watch
        )
        self.task = asyncio.ensure_future(stay_attached(self.agent))


@asynccontextmanager
async def attached(
    gateway: ScriptedGateway, drafter: Callable[[int], Drafter], max_sessions: int = 8
) -> AsyncIterator[Attached]:
    """An attached agent; detached at the end."""
    agent = Attached(gateway, drafter, max_sessions)
    await gateway.attached()
    try:
        yield agent
    finally:
        agent.task.cancel()
        with suppress(asyncio.CancelledError):
            await agent.task
