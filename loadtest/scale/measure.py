"""Measures a gateway's cost per event: two real gateways with their stores between scripted verifiers and agents.

Each run has more of some events than the others and a constant load while it is measured. CPU seconds are the
processes' own, so other load on the machine hardly matters. The median of a run's windows counts.
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
from websockets.asyncio.client import ClientConnection

from edgedraft.local.processes import StartError, Supervisor
from edgedraft.observability.progress import progress
from edgedraft.serving.open_files import allow_many_files
from edgedraft.wire import ModelCard
from loadtest.peers.gateways.process import cpu_seconds, memory_mib
from loadtest.peers.gateways.script import model_card
from loadtest.peers.gateways.stub_verifier import CommitCounts
from loadtest.scale.costs import NAMES, Costs, Counts, Run, error, fit
from loadtest.scale.scripted_peers import (
    AgentCounts,
    answer_commits,
    attach,
    cancel_all,
    listening_verifier,
    stream,
)
from loadtest.scale.stores import Stores, StoreUsage

KEY = "bench-key"
# Models: served by one verifier, by four, and by one that commits a whole text at once.
ONE, FOUR, AT_ONCE = "one", "four", "at-once"
TOKEN_INTERVAL = 0.02  # seconds
UNREACHED_LIMIT = 1 << 24  # per minute; it is counted all the same
PROMPT = [{"role": "user", "content": "What does a lighthouse keeper do all night?"}]
FLAGS = (
    *("--port", "0", "--admin-api"),
    *("--requests-per-minute", str(UNREACHED_LIMIT), "--tokens-per-minute", str(UNREACHED_LIMIT)),
)


@dataclass(frozen=True)
class Plan:
    """Durations in seconds and sizes. `settle` passes before every run."""

    windows: int = 3
    seconds: float = 4.0
    settle: float = 1.5
    agents: int = 300
    counted_seconds: float = 20.0  # PostgreSQL publishes its transaction counts late


@dataclass(frozen=True)
class RunShape:
    """A run with streams of `model`; `draft_frames` per commit, None for no agents, of `drafts_per_frame` each."""

    name: str
    model: str
    streams: int
    draft_frames: int | None = None
    remote: bool = False
    drafts_per_frame: int = 1


SHAPES = (
    RunShape("8 streams, 1 verifier", ONE, 8),
    RunShape("32 streams, 1 verifier", ONE, 32),
    RunShape("8 streams, 4 verifiers", FOUR, 8),
    RunShape("24 streams, 4 verifiers", FOUR, 24),
    RunShape("8 streams, agents that only listen", ONE, 8, 0),
    RunShape("8 streams, 1 draft per commit", ONE, 8, 1),
    RunShape("8 streams, 3 drafts per commit", ONE, 8, 3),
    RunShape("8 streams, 3 drafts per frame", ONE, 8, 1, drafts_per_frame=3),
    RunShape("24 streams, 1 draft per commit", ONE, 24, 1),
    RunShape("8 streams, remote agents that only listen", ONE, 8, 0, remote=True),
    RunShape("8 streams, remote agents, 1 draft per commit", ONE, 8, 1, remote=True),
    RunShape("8 streams, remote agents, 3 drafts per commit", ONE, 8, 3, remote=True),
    RunShape("8 streams, remote agents, 3 drafts per frame", ONE, 8, 1, remote=True, drafts_per_frame=3),
)


@dataclass(frozen=True)
class StoreCosts:
    """Use of the stores per gateway and second, per request, per agent and second, and per attaching agent."""

    second: StoreUsage
    request: StoreUsage
    agent: StoreUsage
    attach: StoreUsage
    redis_connections: float  # per gateway
    postgres_connections: float


@dataclass(frozen=True)
class Measured:
    """`costs` of a gateway; `load` those of the benchmark's own process, by the same names."""

    costs: Costs
    load: Costs
    error: float
    agent_kib: float
    gateway_mib: float
    stores: StoreCosts
    runs: list[Run] = field(default_factory=list)


def measure(stores: Stores, plan: Plan) -> Measured:
    """Raises StartError when a gateway does not start."""
    allow_many_files()
    return asyncio.run(_measure(stores, plan))


async def _measure(stores: Stores, plan: Plan) -> Measured:
    async with AsyncExitStack() as running:
        testbed = await running.enter_async_context(_testbed(stores, plan))
        with progress("costs of a gateway", len(SHAPES) + 3, "runs") as advance:
            runs = [await testbed.run("nothing", Counts)]
            advance()
            idle = await testbed.store_usage(plan.counted_seconds)
            for shape in SHAPES:
                runs.append(await testbed.run_streams(shape))
                advance(note=shape.name)
            requests, per_request = await testbed.run_requests()
            runs.append(requests)
            advance()
            agents, kib, per_agent, per_attach = await testbed.run_idle_agents(idle)
            runs.append(agents)
            advance()
        redis, postgres = stores.connections
        costs = fit(runs)
        per_second = _scaled(idle, 1 / (2 * plan.counted_seconds))
        store_costs = StoreCosts(per_second, per_request, per_agent, per_attach, redis / 2, postgres / 2)
        return Measured(costs, fit(runs, "load"), error(costs, runs), kib, testbed.memory_before, store_costs, runs)


class _Testbed:
    """The two gateways with their peers."""

    def __init__(
        self, stores: Stores, plan: Plan, stack: Supervisor, model: ModelCard, http: aiohttp.ClientSession
    ) -> None:
        self._stores, self._plan, self._stack, self._http = stores, plan, stack, http
        self._fingerprint = model.fingerprint
        self.verifier_counts, self.agent_counts, self.requests = CommitCounts(), AgentCounts(), 0
        self.memory_before = 0.0

    @property
    def _urls(self) -> list[str]:
        return [child.address for child in self._stack.processes]

    def gateway_seconds(self) -> float:
        return sum(cpu_seconds(child.popen.pid) for child in self._stack.processes)

    def memory(self) -> float:
        """MiB of the first gateway."""
        return memory_mib(self._stack.processes[0].popen.pid)

    async def run(self, name: str, counts: Callable[..., Counts], **present: float) -> Run:
        """Measures what is running. `counts` receives the events by name, and the seconds of what was `present`."""
        await asyncio.sleep(self._plan.settle)
        runs: list[Run] = []
        for _ in range(self._plan.windows):
            gateway, load, began = self.gateway_seconds(), time.process_time(), time.monotonic()
            before = self._totals()
            await asyncio.sleep(self._plan.seconds)
            seconds = time.monotonic() - began
            events = {key: value - before[key] for key, value in self._totals().items()}
            lasting = {key: value * seconds for key, value in present.items()}
            found = counts(second=2 * seconds, **events, **lasting)
            runs.append(Run(name, found, self.gateway_seconds() - gateway, time.process_time() - load))
        return sorted(runs, key=lambda run: run.gateway / run.counts.second)[len(runs) // 2]

    def _totals(self) -> dict[str, float]:
        return {
            "wake": sum(voluntary_switches(child.popen.pid) for child in self._stack.processes),
            "frame": self.verifier_counts.frames,
            "commit": self.verifier_counts.commits,
            "agent_commit": self.agent_counts.commits,
            "draft": self.agent_counts.draft_frames,
            "extra_draft": self.agent_counts.extra_drafts,
            "request": self.requests,
        }

    async def run_streams(self, shape: RunShape) -> Run:
        """Streams that neither begin nor end while they are measured."""
        home, host = self._urls[0], self._urls[1 if shape.remote else 0]
        drafting: list[asyncio.Task[None]] = []
        if shape.draft_frames is not None:
            for _ in range(shape.streams // 8):
                socket = await attach(host, KEY, self._fingerprint)
                drafting.append(asyncio.create_task(_draft(socket, shape, self.agent_counts)))
        body = _body(shape.model, 2000, shape.draft_frames is not None)
        url = f"{home}/v1/chat/completions"
        streams = [asyncio.create_task(stream(self._http, url, KEY, body)) for _ in range(shape.streams)]
        try:
            return await self.run(shape.name, partial(_counts, shape.remote))
        finally:
            await cancel_all(streams)
            await asyncio.sleep(0.3)
            await cancel_all(drafting)

    async def run_requests(self, concurrency: int = 4) -> tuple[Run, StoreUsage]:
        """A closed loop of one-token requests, and the stores' use per request."""
        url, body = f"{self._urls[0]}/v1/chat/completions", _body(AT_ONCE, 1, False)

        async def client() -> None:
            while True:
                await stream(self._http, url, KEY, body)
                self.requests += 1

        clients = [asyncio.create_task(client()) for _ in range(concurrency)]
        try:
            run = await self.run("requests of one token", Counts)
            before = self.requests
            usage = await self.store_usage(self._plan.counted_seconds)
            return run, _scaled(usage, 1 / max(1, self.requests - before))
        finally:
            await cancel_all(clients)

    async def run_idle_agents(self, idle: StoreUsage) -> tuple[Run, float, StoreUsage, StoreUsage]:
        """Idle agents, each of its own owner: the run, KiB per agent, store use per agent second and per attach."""
        count, home = self._plan.agents, self._urls[0]
        keys = [await self._create_key(home, f"owner-{number}") for number in range(count)]
        before, usage_before = self.memory(), self._stores.usage()
        sockets = [await attach(home, key, self._fingerprint) for key in keys]
        attaching = self._stores.usage().since(usage_before)
        try:
            run = await self.run(f"{count} idle agents", Counts, agent=count)
            kib = 1024 * (self.memory() - before) / count
            extra = (await self.store_usage(self._plan.counted_seconds)).since(idle)
            return run, kib, _scaled(extra, 1 / (count * self._plan.counted_seconds)), _scaled(attaching, 1 / count)
        finally:
            await asyncio.gather(*(socket.close() for socket in sockets))

    async def store_usage(self, seconds: float) -> StoreUsage:
        """The stores' use over so many seconds."""
        before = self._stores.usage()
        await asyncio.sleep(seconds)
        return self._stores.usage().since(before)

    async def _create_key(self, url: str, owner: str) -> str:
        body = {"owner": owner, "scopes": ["edge", "inference"]}
        headers = {"authorization": f"Bearer {KEY}"}
        async with self._http.post(f"{url}/admin/v1/keys", json=body, headers=headers) as reply:
            reply.raise_for_status()
            return (await reply.json())["key"]


@asynccontextmanager
async def _testbed(stores: Stores, plan: Plan) -> AsyncIterator[_Testbed]:
    async with AsyncExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        stack = running.enter_context(Supervisor(KEY, folder, env=stores.env))
        http = await running.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None))
        )
        testbed = _Testbed(stores, plan, stack, model_card(ONE), http)
        urls: list[str] = []
        for name, interval in [(ONE, TOKEN_INTERVAL), *[(FOUR, TOKEN_INTERVAL)] * 4, (AT_ONCE, 0.0)]:
            verifier = listening_verifier(model_card(name), interval, testbed.verifier_counts)
            urls.append(await running.enter_async_context(verifier))
        for _ in range(2):
            child = await asyncio.to_thread(stack.start_gateway, *urls, flags=FLAGS)
            await asyncio.to_thread(stack.wait_for_verifier, child.address)
        for child in stack.processes:
            await _wait_connected(http, child.address, len(urls))
        testbed.memory_before = testbed.memory()
        yield testbed


async def _wait_connected(http: aiohttp.ClientSession, url: str, verifiers: int) -> None:
    """Until the gateway is connected to all verifiers. Raises StartError."""
    for _ in range(600):
        async with http.get(f"{url}/metrics") as reply:
            if f"edgedraft_gateway_verifiers {verifiers}.0" in await reply.text():
                return
        await asyncio.sleep(0.1)
    raise StartError("a scripted verifier was not found")


async def _draft(socket: ClientConnection, shape: RunShape, counts: AgentCounts) -> None:
    try:
        await answer_commits(socket, shape.draft_frames or 0, shape.drafts_per_frame, counts)
    finally:
        await socket.close()


def voluntary_switches(pid: int) -> int:
    """How often a process's first thread, in a gateway the event loop's, has waited for something."""
    return psutil.Process(pid).num_ctx_switches().voluntary


def _counts(remote: bool, **events: float) -> Counts:
    extra = {f"remote_{name}": events[name] for name in ("agent_commit", "draft", "extra_draft")} if remote else {}
    return Counts(**events, **extra)


def _body(model: str, tokens: int, edge: bool) -> dict[str, Any]:
    return {"model": model, "messages": PROMPT, "max_tokens": tokens, "temperature": 0, "edgedraft": {"edge": edge}}


def _scaled(usage: StoreUsage, by: float) -> StoreUsage:
    return StoreUsage(*(getattr(usage, name) * by for name in usage.__dataclass_fields__))


def rows(measured: Measured) -> list[dict[str, Any]]:
    """Gateway and load costs side by side, in CPU milliseconds."""
    return [
        {
            "per": name,
            "gateway_CPU_ms": 1e3 * getattr(measured.costs, name),
            "load_CPU_ms": 1e3 * getattr(measured.load, name),
        }
        for name in NAMES
    ]
