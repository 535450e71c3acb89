"""The state machines under fuzzing: the attacker, the honest traffic meanwhile, and the checks that it is served.

The attacker knows the protocol: half of its frames begin correctly and fit the open sessions.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import httpx
import uvicorn
from fastapi import FastAPI
from msgspec.structs import replace

from edge_agent.drafters.interface import CombinedDrafter
from edge_agent.drafters.lookup.prediction import PredictionDrafter
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.loop import DraftingLimits, DraftingLoop
from edge_agent.drafting.stats import StatsCollector
from edgedraft import wire
from edgedraft.links.link import Link
from edgedraft.links.settings import GATEWAY_TO_VERIFIER
from edgedraft.links.transport import TransportClosed
from edgedraft.serving.server import server_config
from edgedraft.wire import Draft, Hello, ModelCard, Open, Sampling, WireError
from gateway.agents.registry import AgentRegistry
from gateway.app import build_app as gateway_app
from gateway.model.served_model import ServedModel, UnusableCard
from gateway.observability.metrics import Metrics
from gateway.sessions.errors import SessionError
from gateway.sessions.request import SessionRequest
from gateway.sessions.session import Session
from gateway.settings import GatewaySettings
from gateway.verifiers.billing import AttemptBilling
from gateway.verifiers.health import VerifierHealth
from gateway.verifiers.link import VerifierLink
from gateway.verifiers.pool import VerifierPool
from tests.fuzz.frames import Frames, draft
from tests.fuzz.parts import FuzzedSocket, ScriptedEngine, ScriptedMailbox, only_sessions, scripted_token, toy_card
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.server import build_app as verifier_app

KEY = "ed-fuzz"
MAX_LINK_FRAMES = 60
SESSIONS = 4
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24, "temperature": 0}
LINKS_PER_CHAT = 100


class Account(Protocol):
    """The part of __main__.Tally that this module needs."""

    frames: int
    accepted: int
    rejected: int
    links: int
    chats: int
    closes: Any

    def escape(self, error: BaseException | str, frame: bytes = b"") -> None: ...

    def settled(self) -> None: ...


async def fuzz_agent_endpoint(stats: Account, count: int, rng: Random, folder: Path) -> None:
    """Agents attack a gateway while chats of their owner run, for which they get sessions."""
    supply = Frames("agent to gateway", rng, vocab=toy_card().vocab_size)
    async with running_verifier() as verifier, serving(verifier) as url, running_gateway(folder, url) as app:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers={"authorization": f"Bearer {KEY}"}
        ) as http:
            while stats.frames < count:
                chats = [asyncio.create_task(http.post("/v1/chat/completions", json=CHAT)) for _ in range(2)]
                link = FuzzedSocket(app, "/v1/agent", KEY)
                link.begin()
                await _attack(stats, link, supply, rng, "agent")
                await _gather(stats, chats)
                if stats.links == 50:
                    stats.settled()


async def fuzz_verifier_endpoint(stats: Account, count: int, rng: Random, folder: Path) -> None:
    """Gateways attack a verifier, beside an honest one."""
    supply = Frames("gateway to verifier", rng, vocab=toy_card().vocab_size)
    async with running_verifier() as app:
        while stats.frames < count:
            link = FuzzedSocket(app, "/v1/engine", KEY)
            link.begin()
            await _attack(stats, link, supply, rng, "gateway")
            if stats.links % LINKS_PER_CHAT == 0:
                await _honest(stats, app)
            if stats.links == 50:
                stats.settled()


def fuzz_drafting_loop(stats: Account, count: int, rng: Random) -> None:
    """A gateway attacks an agent: what passes the decoder reaches the drafting loop."""
    vocab = 1000
    supply = Frames("gateway to agent", rng, vocab=vocab)
    while stats.frames < count:
        batches = []
        for _ in range(MAX_LINK_FRAMES):
            frame = supply.valid() if rng.random() < 0.5 else supply.next()
            stats.frames += 1
            try:
                batches.append(only_sessions(wire.decode_to_agent(frame)))
            except WireError:
                stats.rejected += 1
        stats.accepted += len(batches)
        drafter = CombinedDrafter([PredictionDrafter(), PromptLookupDrafter()])
        try:
            DraftingLoop(cast(Any, ScriptedMailbox(batches)), drafter, DraftingLimits(vocab, 8), StatsCollector()).run()
        except Exception as error:
            stats.escape(error)
        stats.links += 1
        if stats.links == 50:
            stats.settled()


async def fuzz_verifier_link(stats: Account, count: int, rng: Random, folder: Path) -> None:
    """A verifier attacks a gateway's sessions, each of which must end in an expected way."""
    card = toy_card()
    model = ServedModel.from_card(card)
    supply = Frames("verifier to gateway", rng, vocab=card.vocab_size)
    metrics = Metrics()
    agents = AgentRegistry(4, metrics)
    while stats.frames < count:
        connection = _Hostile(supply, rng, stats, count)
        link = VerifierLink(
            "ws://hostile",
            Link(connection, GATEWAY_TO_VERIFIER),
            model,
            64,
            VerifierHealth(),
            AttemptBilling(lambda *_: None),
        )
        pool = _OnlyLink(link, metrics)
        running = asyncio.create_task(link.run())
        ends: list[BaseException | None] = []
        while not running.done():
            jobs = [
                SessionRequest(
                    model, [1, 2, 3], Sampling(), 40, (0,), ("t", "o"), "t", edge=False, logprobs=rng.choice((-1, 1))
                )
                for _ in range(SESSIONS)
            ]
            sessions = [Session(job, pool, agents, metrics, 0.01, 0.01) for job in jobs]
            ends += await asyncio.gather(*(_consumed(session) for session in sessions), return_exceptions=True)
        for end in [*ends, *await asyncio.gather(running, return_exceptions=True)]:
            if isinstance(end, WireError):
                stats.rejected += 1
            elif isinstance(end, BaseException) and not isinstance(
                end, (SessionError, TransportClosed, asyncio.CancelledError)
            ):
                stats.escape(end)
        stats.links += 1
        if stats.links == 50:
            stats.settled()
        if metrics.sessions._value.get():
            stats.escape("a session was left open")
        if not connection.opened:
            stats.escape("no session reached the verifier")


async def _consumed(session: Session) -> None:
    async for _ in session.run():
        pass


async def _load_no_model(card: ModelCard) -> ServedModel:
    raise UnusableCard("the link is connected already")


class _OnlyLink(VerifierPool):
    """A pool of one link that is already connected."""

    def __init__(self, link: VerifierLink, metrics: Metrics) -> None:
        super().__init__([], "", "fuzz", metrics, _load_no_model, lambda *_: None)
        self._link = link

    def _links_serving(self, model: ServedModel) -> list[VerifierLink]:
        return [] if self._link.draining else [self._link]


class _Hostile:
    """A transport.Transport whose peer is the fuzz."""

    def __init__(self, supply: Frames, rng: Random, stats: Account, count: int) -> None:
        self._supply, self._rng, self._tally, self._count = supply, rng, stats, count
        self._left = 10 * MAX_LINK_FRAMES
        self._last = 0  # session that was opened

    async def receive(self) -> bytes | str:
        self._left -= 1
        await asyncio.sleep(0)
        if self._left < 0:
            raise TransportClosed(1000)
        self._tally.frames += 1
        self._tally.accepted += 1
        if self._rng.random() < 0.9:
            session = max(1, self._last - self._rng.randrange(SESSIONS))
            logprobs = [wire.TokenLogprobs(-1.0, [1], [-1.0])] if self._rng.random() < 0.5 else []
            return wire.encode_frame([wire.Commit(session, self._rng.choice((0, 0, 1, 2)), [5], 8, logprobs=logprobs)])
        return self._supply.next() if self._rng.random() < 0.1 else self._supply.valid()

    async def send(self, frame: bytes) -> None:
        opened = [message.session for message in wire.decode_to_verifier(frame) if isinstance(message, Open)]
        self._last = max([self._last, *opened])

    async def close(self, code: int = 1000, reason: str = "") -> None:
        pass

    @property
    def opened(self) -> int:
        """How many sessions have been opened."""
        return self._last


async def _attack(stats: Account, link: FuzzedSocket, supply: Frames, rng: Random, who: str) -> None:
    """One link from its hello, which is mostly correct, to its end."""
    frames: list[bytes | str] = []
    if rng.random() < 0.95:
        frames.append(wire.encode_frame([Hello(wire.PROTOCOL, "fuzz", "", "none", 4)]))
    for _ in range(rng.randint(1, MAX_LINK_FRAMES)):
        if link.over:
            break
        if not frames:
            frames.append(_next(supply, link, rng, who))
        frame = frames.pop(0)
        stats.frames += 1
        await link.put(frame)
    try:
        await link.end()
    except Exception as error:
        stats.escape(error)
    stats.links += 1
    if link.closed is None:
        stats.accepted += 1
    else:
        stats.rejected += 1
        stats.closes[link.closed] += 1


def _next(supply: Frames, link: FuzzedSocket, rng: Random, who: str) -> bytes | str:
    if rng.random() < 0.002:
        return "text"
    if rng.random() < 0.15:
        return supply.next()
    if who == "gateway":
        return supply.valid()
    seen = [message for sent in link.frames for message in wire.decode_to_agent(sent)]
    opens = [message for message in seen if isinstance(message, Open)]
    if not opens:
        return wire.encode_frame([])
    opened = rng.choice(opens)
    made: Draft = draft(rng, toy_vocab())
    at = len(opened.committed)
    parents = [min(parent, made.first + i - 1) for i, parent in enumerate(made.parents)]
    return wire.encode_frame([replace(made, session=opened.session, at=at, epoch=opened.epoch + 1, parents=parents)])


_VOCAB: list[int] = []


def toy_vocab() -> int:
    if not _VOCAB:
        _VOCAB.append(toy_card().vocab_size)
    return _VOCAB[0]


async def _gather(stats: Account, chats: list[asyncio.Task[httpx.Response]]) -> None:
    """Checks that each chat gets its complete answer, whatever its agent did."""
    for answer in await asyncio.gather(*chats, return_exceptions=True):
        if isinstance(answer, BaseException):
            stats.escape(answer)
            continue
        usage = answer.json().get("usage", {})
        if answer.status_code != 200 or usage.get("completion_tokens") != CHAT["max_tokens"]:
            stats.escape(f"a chat was answered {answer.status_code} {answer.text[:200]}")
        text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else ""
        if stats.chats and text != _RIGHT[0]:
            stats.escape("a chat's text changed")
        _RIGHT[:] = [text]
        stats.chats += 1


_RIGHT = [""]


async def _honest(stats: Account, app: FastAPI) -> None:
    """Checks that an honest gateway's generation is complete."""
    link, prompt = FuzzedSocket(app, "/v1/engine", KEY), [7, 8, 9]
    link.begin()
    await link.put(wire.encode_frame([Hello(wire.PROTOCOL, "honest")]))
    await link.put(wire.encode_frame([Open(1, prompt, Sampling(temperature=0), 20)]))
    got: list[int] = []
    try:
        async with asyncio.timeout(60):
            while len(got) < 20:
                await asyncio.sleep(0.001)
                sent, link.frames[:] = list(link.frames), []
                for message in (message for frame in sent for message in wire.decode_from_verifier(frame)):
                    got += message.tokens if isinstance(message, wire.Commit) else []
    except TimeoutError:
        stats.escape(f"an honest session got {len(got)} of 20 tokens")
    if got and got != [scripted_token(prompt, 3 + i, toy_vocab()) for i in range(len(got))]:
        stats.escape("an honest session's text changed")
    stats.chats += 1
    await link.end()


@asynccontextmanager
async def running_verifier() -> AsyncIterator[FastAPI]:
    card = toy_card()
    limits = SchedulerLimits(
        step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.01, wait_share=1.0, max_waiting=32
    )
    app = verifier_app(ScriptedEngine(card.vocab_size, card.context_length, 32), limits, card, 64, KEY)
    async with app.router.lifespan_context(app):
        yield app
        if app.state.engine_loop.broken:
            raise RuntimeError("the engine thread failed")


@asynccontextmanager
async def serving(app: FastAPI, max_frame: int = wire.MAX_FRAME) -> AsyncIterator[str]:
    """Serves an app whose lifespan runs already; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(app, max_frame, 20.0, 1)
    config.lifespan = "off"  # it is running already
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running_gateway(folder: Path, verifier: str) -> AsyncIterator[FastAPI]:
    settings = GatewaySettings.model_validate(
        {
            "verifier": [verifier],
            "verifier_token": KEY,
            "key": KEY,
            "database": f"sqlite+aiosqlite:///{folder / 'gateway.db'}",
            "max_agents_per_owner": 4,
        }
    )
    app = gateway_app(settings)
    async with app.router.lifespan_context(app):
        await app.state.verifiers.wait_for_model(10)
        yield app
