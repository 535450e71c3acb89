"""Compares a small real service with its simulation under the same closed loop.

Verifiers, gateways and stores are processes with the demo target; clients and agents are live_load.py's, in this
process. Two inputs of the simulation come from the real run, since they are not what is validated: the CPU time of the
load generator per message, and the share of a core that a verifier got. Everything else was measured before.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from edgedraft.local.fleet import Fleet
from edgedraft.local.processes import Supervisor
from loadtest.metrics import read_metrics
from loadtest.peers.gateways.process import cpu_seconds
from loadtest.scale.cell import FREE, Cell, Parts, Shape
from loadtest.scale.costs import Costs
from loadtest.scale.live_load import FrameCounts, LiveAgent, send_requests
from loadtest.scale.measure import KEY, voluntary_switches
from loadtest.scale.scripted_peers import attach, cancel_all
from loadtest.scale.stores import Stores
from loadtest.scale.workload import Workload
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.verifier import EDGE_LIMITS
from verifier.scheduling.step_costs import StepCosts


@dataclass(frozen=True)
class SmallService:
    """A small service and its concurrency; with `edge` each stream has an agent of its own."""

    gateways: int
    verifiers: int
    streams: int
    edge: bool

    def __str__(self) -> str:
        mode = "edge" if self.edge else "datacenter only"
        return f"{self.gateways} gateways, {self.verifiers} verifiers, {self.streams} streams, {mode}"


SMALL_SERVICES = (
    SmallService(1, 1, 4, edge=False),
    SmallService(1, 1, 4, edge=True),
    SmallService(2, 2, 8, edge=False),
    SmallService(2, 2, 8, edge=True),
)


@dataclass(frozen=True)
class Figures:
    """Rates per second; verifier, verifier_cpu, gateway and load are cores, of all processes of a kind together."""

    tokens: float
    steps: float
    commits: float
    agent_commits: float
    draft_frames: float
    verifier: float  # by the verifier's own metric: while a step runs
    verifier_cpu: float
    gateway: float
    wakes: float
    load: float = 0.0

    @property
    def speed(self) -> float:
        """The share of a core that a verifier got while it ran a step."""
        return min(1.0, self.verifier_cpu / self.verifier)

    @property
    def frames(self) -> float:
        """Over the agents' links, both directions."""
        return self.agent_commits + self.draft_frames

    @property
    def tokens_per_cpu(self) -> float:
        """Per CPU second of the verifiers, which depends little on other load on the machine."""
        return self.tokens / self.verifier_cpu

    @property
    def gateway_per_token(self) -> float:
        """CPU milliseconds."""
        return 1e3 * self.gateway / self.tokens


def measure_live(
    stores: Stores,
    small: SmallService,
    workload: Workload,
    edge: tuple[DeviceProfile, LinkProfile],
    dtype: str,
    seconds: float,
) -> Figures:
    """Raises StartError when a process does not start."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Supervisor(KEY, Path(folder), env=stores.env) as stack,
    ):
        fleet = Fleet.start(stack, small.gateways, small.verifiers, verifier_flags=("--threads", "1", "--dtype", dtype))
        return asyncio.run(_measure_live(fleet, small, workload, EdgeProfile(*edge, workload.draft_model), seconds))


async def _measure_live(
    fleet: Fleet, small: SmallService, workload: Workload, edge: EdgeProfile, seconds: float
) -> Figures:
    counts, chats = FrameCounts(), workload.chats
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        async with http.get(f"{fleet.urls[0]}/v1/models", headers={"authorization": f"Bearer {KEY}"}) as reply:
            model = (await reply.json())["data"][0]["id"]
        await asyncio.to_thread(_wait_connected, fleet, small)
        tasks: list[asyncio.Task[Any]] = []
        try:
            for number in range(small.streams if small.edge else 0):
                url = fleet.urls[number % small.gateways]
                socket = await attach(url, KEY, "", sessions=1, name=f"desktop {number}")
                tasks.append(asyncio.create_task(LiveAgent(socket, chats, edge, counts, seed=number).run()))
            for number in range(small.streams):
                url = fleet.urls[number % small.gateways]
                client = send_requests(http, url, KEY, model, chats, small.edge, seed=number)
                tasks.append(asyncio.create_task(client))
            await asyncio.sleep(seconds / 3)
            before = await _totals(fleet, counts)
            await asyncio.sleep(seconds)
            return _figures(before, await _totals(fleet, counts))
        finally:
            await cancel_all(tasks)


def _wait_connected(fleet: Fleet, small: SmallService) -> None:
    while any(read_metrics(url)["edgedraft_gateway_verifiers"] < small.verifiers for url in fleet.urls):
        time.sleep(0.1)


async def _totals(fleet: Fleet, counts: FrameCounts) -> dict[str, float]:
    metrics = [await asyncio.to_thread(read_metrics, child.address) for child in fleet.verifiers]
    prefix = "edgedraft_verifier_"
    return {
        "at": time.monotonic(),
        "tokens": sum(one[f"{prefix}tokens_total"] for one in metrics),
        "steps": sum(one[f"{prefix}steps_total"] for one in metrics),
        "commits": sum(one[f"{prefix}session_steps_total"] for one in metrics),
        "agent_commits": counts.agent_commits,
        "draft_frames": counts.draft_frames,
        "verifier": sum(one[f"{prefix}step_seconds_sum"] for one in metrics),
        "verifier_cpu": sum(cpu_seconds(child.popen.pid) for child in fleet.verifiers),
        "gateway": sum(cpu_seconds(child.popen.pid) for child in fleet.gateways),
        "wakes": sum(voluntary_switches(child.popen.pid) for child in fleet.gateways),
        "load": time.process_time(),
    }


def _figures(before: dict[str, float], after: dict[str, float]) -> Figures:
    seconds = after.pop("at") - before.pop("at")
    return Figures(**{name: (after[name] - before[name]) / seconds for name in after})


def simulate(
    small: SmallService,
    workload: Workload,
    steps: StepCosts,
    costs: Costs,
    edge: tuple[DeviceProfile, LinkProfile],
    live: Figures,
    tokens: int,
) -> Figures:
    """The same service in virtual time. Of `live` only the load generator's CPU time and the speed are used."""
    per_message = live.load / (live.commits + live.agent_commits + live.draft_frames)
    load = replace(FREE, commit=per_message, agent_commit=per_message, draft=per_message)
    shape = Shape(small.gateways, small.verifiers, small.edge, 0.0, live.speed, load, EDGE_LIMITS)
    profile = EdgeProfile(*edge, workload.draft_model)
    cell = Cell(shape, Parts(lambda: workload.recorded_target(steps), steps, costs, profile))
    measured = run(cell, workload.chats, Load(small.streams, tokens=tokens, warmup_tokens=tokens // 3), seed=0)
    meters, seconds = measured.meters, measured.seconds
    assert isinstance(meters, type(cell.meters))
    return Figures(
        tokens=measured.tokens_per_second,
        steps=meters.steps / seconds,
        commits=meters.verifies / seconds,
        agent_commits=meters.agent_commits / seconds,
        draft_frames=meters.draft_frames / seconds,
        verifier=meters.server_seconds / seconds / live.speed,
        verifier_cpu=meters.server_seconds / seconds,
        gateway=meters.gateway_seconds / seconds + small.gateways * costs.second,
        wakes=meters.wakes / seconds,
    )


def rows(pairs: Sequence[tuple[SmallService, Figures, Figures]]) -> list[dict[str, Any]]:
    """A row per figure with live, simulated and simulated over live."""
    table: list[dict[str, Any]] = []
    for small, live, simulated in pairs:
        for name, title in TITLES.items():
            here, there = getattr(live, name), getattr(simulated, name)
            if here:
                ratio = there / here
                table.append({"service": str(small), "figure": title, "live": here, "simulated": there, "ratio": ratio})
    return table


TITLES = {
    "tokens": "tokens/s",
    "steps": "steps/s",
    "commits": "commits/s",
    "frames": "agents' frames/s",
    "verifier": "verifiers busy",
    "wakes": "gateways' wakes/s",
    "gateway": "gateways' CPU, cores",
    "tokens_per_cpu": "tokens per verifier CPU second",
    "gateway_per_token": "gateway CPU per token, ms",
}
