"""A small real service and the simulation of it, under the same closed loop: what both say, and their ratio.

Verifiers, gateways and stores are processes with the demo target; clients and desktops are live.py's, in this one. Two
things are taken from the real run, for they are no part of what is matched: what the load's own process takes for each
of its pieces, and what share of a core a verifier got, which on a machine with nothing else to do is all of one. All
else was measured beforehand.
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
from loadtest.gateway_peers.process import cpu_seconds
from loadtest.metrics import metrics_of
from loadtest.scale.cell import FREE, Cell, Parts, Shape
from loadtest.scale.costs import Costs
from loadtest.scale.live import LiveDesktop, Seen, ask_on
from loadtest.scale.measure import KEY, wakes
from loadtest.scale.peers import attach, ended
from loadtest.scale.stores import Stores
from loadtest.scale.texts import Texts
from loadtest.seed.fleet import Load, run
from loadtest.seed.profiles import Device, Link
from loadtest.seed.server import EDGE_LIMITS
from verifier.scheduling.step_costs import StepCosts


@dataclass(frozen=True)
class Small:
    """One small service and its load: `streams` at once, each with a desktop of its own if `edge`."""

    gateways: int
    verifiers: int
    streams: int
    edge: bool

    def __str__(self) -> str:
        way = "edge" if self.edge else "datacenter only"
        return f"{self.gateways} gateways, {self.verifiers} verifiers, {self.streams} streams, {way}"


SMALL = (
    Small(1, 1, 4, edge=False),
    Small(1, 1, 4, edge=True),
    Small(2, 2, 8, edge=False),
    Small(2, 2, 8, edge=True),
)


@dataclass(frozen=True)
class Figures:
    """A second of it; shares are of one core each, of all verifiers or gateways together."""

    tokens: float
    steps: float
    commits: float
    told: float
    drafts: float
    verifier: float  # as it says itself: while a step runs
    verifier_cpu: float
    gateway: float
    wakes: float
    load: float = 0.0

    @property
    def speed(self) -> float:
        """The share of a core that a verifier got while it had something to compute."""
        return min(1.0, self.verifier_cpu / self.verifier)

    @property
    def frames(self) -> float:
        """Over the agents' links, both ways."""
        return self.told + self.drafts

    @property
    def tokens_per_cpu(self) -> float:
        """Which other load on the machine does not change much."""
        return self.tokens / self.verifier_cpu

    @property
    def gateway_per_token(self) -> float:
        """In milliseconds of CPU."""
        return 1e3 * self.gateway / self.tokens


def live(stores: Stores, small: Small, texts: Texts, edge: tuple[Device, Link], dtype: str, seconds: float) -> Figures:
    """Raises StartError when a process does not come up."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Supervisor(KEY, Path(folder), env=stores.env) as stack,
    ):
        fleet = Fleet.start(stack, small.gateways, small.verifiers, verifier_flags=("--threads", "1", "--dtype", dtype))
        return asyncio.run(_live(fleet, small, texts, edge, seconds))


async def _live(fleet: Fleet, small: Small, texts: Texts, edge: tuple[Device, Link], seconds: float) -> Figures:
    seen, chats = Seen(), texts.chats
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
        async with http.get(f"{fleet.urls[0]}/v1/models", headers={"authorization": f"Bearer {KEY}"}) as reply:
            model = (await reply.json())["data"][0]["id"]
        await asyncio.to_thread(_all_connected, fleet, small)
        tasks: list[asyncio.Task[Any]] = []
        try:
            for slot in range(small.streams if small.edge else 0):
                url = fleet.urls[slot % small.gateways]
                socket = await attach(url, KEY, "", sessions=1, name=f"desktop {slot}")
                desktop = LiveDesktop(socket, chats, (*edge, texts.drafts), seen, seed=slot)
                tasks.append(asyncio.create_task(desktop.run()))
            for slot in range(small.streams):
                url = fleet.urls[slot % small.gateways]
                tasks.append(asyncio.create_task(ask_on(http, url, KEY, model, chats, small.edge, seed=slot)))
            await asyncio.sleep(seconds / 3)
            before = await _totals(fleet, seen)
            await asyncio.sleep(seconds)
            return _figures(before, await _totals(fleet, seen))
        finally:
            await ended(tasks)


def _all_connected(fleet: Fleet, small: Small) -> None:
    while any(metrics_of(url)["edgedraft_gateway_verifiers"] < small.verifiers for url in fleet.urls):
        time.sleep(0.1)


async def _totals(fleet: Fleet, seen: Seen) -> dict[str, float]:
    told = [await asyncio.to_thread(metrics_of, child.address) for child in fleet.verifiers]
    name = "edgedraft_verifier_"
    return {
        "at": time.monotonic(),
        "tokens": sum(one[f"{name}tokens_total"] for one in told),
        "steps": sum(one[f"{name}steps_total"] for one in told),
        "commits": sum(one[f"{name}session_steps_total"] for one in told),
        "told": seen.told,
        "drafts": seen.drafts,
        "verifier": sum(one[f"{name}step_seconds_sum"] for one in told),
        "verifier_cpu": sum(cpu_seconds(child.popen.pid) for child in fleet.verifiers),
        "gateway": sum(cpu_seconds(child.popen.pid) for child in fleet.gateways),
        "wakes": sum(wakes(child.popen.pid) for child in fleet.gateways),
        "load": time.process_time(),
    }


def _figures(before: dict[str, float], after: dict[str, float]) -> Figures:
    seconds = after.pop("at") - before.pop("at")
    return Figures(**{name: (after[name] - before[name]) / seconds for name in after})


def simulated(
    small: Small,
    texts: Texts,
    steps: StepCosts,
    costs: Costs,
    edge: tuple[Device, Link],
    beside: Figures,
    tokens: int,
) -> Figures:
    """The same in virtual time; of `beside`, the real run, only the load's own time and the speed are used."""
    piece = beside.load / (beside.commits + beside.told + beside.drafts)
    load = replace(FREE, commit=piece, told=piece, draft=piece)
    shape = Shape(small.gateways, small.verifiers, small.edge, 0.0, beside.speed, load, EDGE_LIMITS)
    cell = Cell(shape, Parts(lambda: texts.played(steps), steps, costs, (*edge, texts.drafts)))
    window = run(cell, texts.chats, Load(small.streams, tokens=tokens, warm=tokens // 3), seed=0)
    meters, seconds = window.meters, window.seconds
    assert isinstance(meters, type(cell.meters))
    return Figures(
        window.tokens / seconds,
        meters.steps / seconds,
        meters.verifies / seconds,
        meters.told / seconds,
        meters.drafts / seconds,
        meters.server / seconds / beside.speed,
        meters.server / seconds,
        meters.gateway / seconds + small.gateways * costs.second,
        meters.wakes / seconds,
    )


def rows(pairs: Sequence[tuple[Small, Figures, Figures]]) -> list[dict[str, Any]]:
    """Both sides and simulated over real, a figure a row."""
    table: list[dict[str, Any]] = []
    for small, real, simulation in pairs:
        for name, shown in SHOWN.items():
            here, there = getattr(real, name), getattr(simulation, name)
            if here:
                table.append(
                    {"service": str(small), "figure": shown, "real": here, "simulated": there, "ratio": there / here}
                )
    return table


SHOWN = {
    "tokens": "tokens/s",
    "steps": "steps/s",
    "commits": "commits/s",
    "frames": "frames/s of agents",
    "verifier": "verifiers busy",
    "wakes": "gateways' wakes/s",
    "gateway": "gateways' CPU, cores",
    "tokens_per_cpu": "tokens by CPU second of verifiers",
    "gateway_per_token": "gateways' CPU by token, ms",
}
