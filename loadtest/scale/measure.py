"""What one of everything costs: two real gateways with their stores between scripted verifiers and agents.

Each run has more of something than the others and nothing that changes while it is measured. CPU seconds are the
processes' own, so other load on the machine hardly matters. Of a run's windows the median counts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from edgedraft.local.processes import StartError, Supervisor
from edgedraft.observability.progress import progress
from edgedraft.serving.open_files import allow_many_files
from edgedraft.wire import ModelCard
from loadtest.gateway_peers.process import cpu_seconds, memory_mib
from loadtest.gateway_peers.script import card
from loadtest.gateway_peers.stub_verifier import Count
from loadtest.scale.costs import NAMES, Costs, Counts, Run, error, fit
from loadtest.scale.peers import Told, attach, draft, ended, stream, verifier
from loadtest.scale.stores import Asked, Stores

KEY = "bench-key"
ONE, FOUR, ATONCE = "one", "four", "at-once"  # models: by one verifier, by four, and by one that says all at once
PACE = 0.02
MANY = 1 << 24  # a limit a minute that nobody meets; it is counted all the same
PROMPT = [{"role": "user", "content": "What does a lighthouse keeper do all night?"}]
FLAGS = ("--port", "0", "--admin-api", "--requests-per-minute", str(MANY), "--tokens-per-minute", str(MANY))


@dataclass(frozen=True)
class Plan:
    """How long and how much. `settle` is waited for before every run, in seconds."""

    windows: int = 3
    seconds: float = 4.0
    settle: float = 1.5
    agents: int = 300
    counted_seconds: float = 20.0  # PostgreSQL tells of its transactions late


@dataclass(frozen=True)
class Shape:
    """A run with streams: which model, how many streams, and frames of drafts a commit; None is without agents.

    `each` is how many drafts such a frame has.
    """

    name: str
    model: str
    streams: int
    drafts: int | None = None
    lent: bool = False
    each: int = 1


SHAPES = (
    Shape("8 streams, 1 verifier", ONE, 8),
    Shape("32 streams, 1 verifier", ONE, 32),
    Shape("8 streams, 4 verifiers", FOUR, 8),
    Shape("24 streams, 4 verifiers", FOUR, 24),
    Shape("8 streams, agents that only listen", ONE, 8, 0),
    Shape("8 streams, a draft a commit", ONE, 8, 1),
    Shape("8 streams, 3 drafts a commit", ONE, 8, 3),
    Shape("8 streams, 3 drafts in a frame", ONE, 8, 1, each=3),
    Shape("24 streams, a draft a commit", ONE, 24, 1),
    Shape("8 streams, lent agents that only listen", ONE, 8, 0, lent=True),
    Shape("8 streams, lent agents, a draft a commit", ONE, 8, 1, lent=True),
    Shape("8 streams, lent agents, 3 drafts a commit", ONE, 8, 3, lent=True),
    Shape("8 streams, lent agents, 3 drafts in a frame", ONE, 8, 1, lent=True, each=3),
)


@dataclass(frozen=True)
class StoreUse:
    """Of the shared stores: by gateway and second, by request, by agent and second, and by agent that comes or goes."""

    second: Asked
    request: Asked
    agent: Asked
    attach: Asked
    redis_connections: float  # a gateway
    postgres_connections: float


@dataclass(frozen=True)
class Measured:
    """`load` is what the benchmark's own process took, with the same names."""

    costs: Costs
    load: Costs
    error: float
    agent_kib: float
    gateway_mib: float
    stores: StoreUse
    runs: list[Run] = field(default_factory=list)


def measure(stores: Stores, plan: Plan) -> Measured:
    """Raises StartError when a gateway does not come up."""
    allow_many_files()
    return asyncio.run(_measure(stores, plan))


async def _measure(stores: Stores, plan: Plan) -> Measured:
    async with AsyncExitStack() as running:
        bed = await running.enter_async_context(_bed(stores, plan))
        with progress("costs of a gateway", len(SHAPES) + 3, "runs") as advance:
            runs = [await bed.run("nothing", Counts)]
            advance()
            idle_before = await bed.used(plan.counted_seconds)
            for shape in SHAPES:
                runs.append(await bed.streams(shape))
                advance(note=shape.name)
            requests, by_request = await bed.requests()
            runs.append(requests)
            advance()
            agents, kib, by_agent, by_attach = await bed.agents(idle_before)
            runs.append(agents)
            advance()
        redis, postgres = stores.connections
        costs = fit(runs)
        second = _scaled(idle_before, 1 / (2 * plan.counted_seconds))
        use = StoreUse(second, by_request, by_agent, by_attach, redis / 2, postgres / 2)
        return Measured(costs, fit(runs, "load"), error(costs, runs), kib, bed.memory_before, use, runs)


class _Bed:
    """The two gateways, with everything that they were given to talk to."""

    def __init__(
        self, stores: Stores, plan: Plan, stack: Supervisor, model: ModelCard, http: aiohttp.ClientSession
    ) -> None:
        self._stores, self._plan, self._stack, self._http = stores, plan, stack, http
        self._fingerprint = model.fingerprint
        self.count, self.told, self.answered = Count(), Told(), 0
        self.memory_before = 0.0

    @property
    def _urls(self) -> list[str]:
        return [child.address for child in self._stack.processes]

    def gateway_seconds(self) -> float:
        return sum(cpu_seconds(child.popen.pid) for child in self._stack.processes)

    def memory(self) -> float:
        return memory_mib(self._stack.processes[0].popen.pid)

    async def run(self, name: str, counts: Callable[..., Counts], **there: float) -> Run:
        """Windows of what is going on; `counts` is given what there was by name, `there` what is there all the time."""
        await asyncio.sleep(self._plan.settle)
        found: list[Run] = []
        for _ in range(self._plan.windows):
            before, seen = (self.gateway_seconds(), time.process_time(), time.monotonic()), self._seen()
            await asyncio.sleep(self._plan.seconds)
            took = time.monotonic() - before[2]
            happened = {key: value - seen[key] for key, value in self._seen().items()}
            made = counts(second=2 * took, **happened, **{key: value * took for key, value in there.items()})
            found.append(Run(name, made, self.gateway_seconds() - before[0], time.process_time() - before[1]))
        return sorted(found, key=lambda run: run.gateway / run.counts.second)[len(found) // 2]

    def _seen(self) -> dict[str, float]:
        return {
            "wake": sum(wakes(child.popen.pid) for child in self._stack.processes),
            "frame": self.count.frames,
            "commit": self.count.commits,
            "told": self.told.commits,
            "draft": self.told.drafts,
            "another": self.told.more,
            "request": self.answered,
        }

    async def streams(self, shape: Shape) -> Run:
        """Streams that neither begin nor end while they are measured."""
        home, agents_at = self._urls[0], self._urls[1 if shape.lent else 0]
        drafting: list[asyncio.Task[None]] = []
        if shape.drafts is not None:
            for _ in range(shape.streams // 8):
                socket = await attach(agents_at, KEY, self._fingerprint)
                drafting.append(asyncio.create_task(_drafting(socket, shape, self.told)))
        body = _body(shape.model, 2000, shape.drafts is not None)
        url = f"{home}/v1/chat/completions"
        asking = [asyncio.create_task(stream(self._http, url, KEY, body)) for _ in range(shape.streams)]
        try:
            return await self.run(shape.name, partial(_lent, shape.lent))
        finally:
            await ended(asking)
            await asyncio.sleep(0.3)
            await ended(drafting)

    async def requests(self, at_once: int = 4) -> tuple[Run, Asked]:
        """Requests of one token, one after the other."""
        url, body = f"{self._urls[0]}/v1/chat/completions", _body(ATONCE, 1, False)

        async def ask_on() -> None:
            while True:
                await stream(self._http, url, KEY, body)
                self.answered += 1

        asking = [asyncio.create_task(ask_on()) for _ in range(at_once)]
        try:
            run = await self.run("requests of one token", Counts)
            answered = self.answered
            asked = await self.used(self._plan.counted_seconds)
            return run, _scaled(asked, 1 / max(1, self.answered - answered))
        finally:
            await ended(asking)

    async def agents(self, idle: Asked) -> tuple[Run, float, Asked, Asked]:
        """Agents that do nothing, each of an owner of its own: the run, KiB each, and what they ask of the stores."""
        count, home = self._plan.agents, self._urls[0]
        keys = [await self._key(home, f"owner-{number}") for number in range(count)]
        before, asked_before = self.memory(), self._stores.asked()
        sockets = [await attach(home, key, self._fingerprint) for key in keys]
        attaching = self._stores.asked().since(asked_before)
        try:
            run = await self.run(f"{count} idle agents", Counts, agent=count)
            kib = 1024 * (self.memory() - before) / count
            more = (await self.used(self._plan.counted_seconds)).since(idle)
            return run, kib, _scaled(more, 1 / (count * self._plan.counted_seconds)), _scaled(attaching, 1 / count)
        finally:
            await asyncio.gather(*(socket.close() for socket in sockets))

    async def used(self, seconds: float) -> Asked:
        """What the stores are asked in so long."""
        before = self._stores.asked()
        await asyncio.sleep(seconds)
        return self._stores.asked().since(before)

    async def _key(self, url: str, owner: str) -> str:
        body = {"owner": owner, "scopes": ["edge", "inference"]}
        async with self._http.post(
            f"{url}/admin/v1/keys", json=body, headers={"authorization": f"Bearer {KEY}"}
        ) as reply:
            reply.raise_for_status()
            return (await reply.json())["key"]


@asynccontextmanager
async def _bed(stores: Stores, plan: Plan) -> AsyncIterator[_Bed]:
    async with AsyncExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        stack = running.enter_context(Supervisor(KEY, folder, env=stores.env))
        http = await running.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        )
        model = card(ONE)
        bed = _Bed(stores, plan, stack, model, http)
        models = [(ONE, PACE), *[(FOUR, PACE)] * 4, (ATONCE, 0.0)]
        urls = [await running.enter_async_context(verifier(card(name), pace, bed.count)) for name, pace in models]
        for _ in range(2):
            child = await asyncio.to_thread(stack.start_gateway, *urls, flags=FLAGS)
            await asyncio.to_thread(stack.wait_for_verifier, child.address)
        for child in stack.processes:
            await _all_served(http, child.address)
        bed.memory_before = bed.memory()
        yield bed


async def _all_served(http: aiohttp.ClientSession, url: str) -> None:
    """Until all verifiers are connected there."""
    for _ in range(600):
        async with http.get(f"{url}/metrics") as reply:
            if "edgedraft_gateway_verifiers 6.0" in await reply.text():
                return
        await asyncio.sleep(0.1)
    raise StartError("a scripted verifier was not found")


async def _drafting(socket: Any, shape: Shape, told: Told) -> None:
    try:
        await draft(socket, shape.drafts or 0, shape.each, told)
    finally:
        await socket.close()


def wakes(pid: int) -> int:
    """How often a process's first thread has waited for something, in a gateway the event loop's."""
    return psutil.Process(pid).num_ctx_switches().voluntary


def _lent(lent: bool, **counts: float) -> Counts:
    more = {f"lent_{name}": counts[name] for name in ("told", "draft", "another")} if lent else {}
    return Counts(**counts, **more)


def _body(model: str, tokens: int, edge: bool) -> dict[str, Any]:
    return {"model": model, "messages": PROMPT, "max_tokens": tokens, "temperature": 0, "edgedraft": {"edge": edge}}


def _scaled(asked: Asked, by: float) -> Asked:
    return Asked(*(getattr(asked, name) * by for name in asked.__dataclass_fields__))


def rows(measured: Measured) -> list[dict[str, Any]]:
    """The costs, gateway and load side by side, in milliseconds."""
    return [
        {
            "of": name,
            "gateway_CPU_ms": 1e3 * getattr(measured.costs, name),
            "load_CPU_ms": 1e3 * getattr(measured.load, name),
        }
        for name in NAMES
    ]
