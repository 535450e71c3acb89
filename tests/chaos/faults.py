"""What is done to the processes while streams run: a plan drawn from a seed, and each fault with its mending."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgedraft.local.processes import ManagedProcess
from tests.support.topology import AGENTS, GATEWAYS, VERIFIERS, Topology

Kind = Literal["agent killed", "agent frozen", "agent partitioned", "gateway restarted", "verifier killed"]

DRAIN_SECONDS = 600.0


def plan(rng: random.Random, rounds: int) -> list[Kind]:
    """In each round each kind once, in an order of its own; every second, two more agents are hurt."""
    kinds: list[Kind] = []
    for number in range(rounds):
        these = [*get_args(Kind), *(("agent frozen", "agent partitioned") if number % 2 else ())]
        rng.shuffle(these)
        kinds += these
    return kinds


@dataclass
class Faults:
    """One at a time in each part of the service: another of the same part waits until the last is mended."""

    topology: Topology
    rng: random.Random
    running: Callable[[], int]  # streams at this moment
    done: Counter[Kind] = field(default_factory=Counter)
    idle: int = 0  # faults while nothing was running
    story: list[str] = field(default_factory=list)
    _turn: int = 0
    _began: float = field(default_factory=time.monotonic)
    _agents: list[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(AGENTS)])
    _gateways: asyncio.Lock = field(default_factory=asyncio.Lock)
    _verifiers: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def cause(self, kind: Kind) -> None:
        """This fault, until it is mended."""
        self._turn += 1
        agent, gateway, verifier = self._turn % AGENTS, self.done[kind] % GATEWAYS, self.done[kind] % VERIFIERS
        seconds = self.rng.uniform(0.5, 6.0)
        match kind:
            case "agent killed":
                async with self._agents[agent]:
                    self._tell(kind, agent)
                    await self._again(self.topology.fleet.agents, agent, signal.SIGKILL)
            case "agent frozen":
                async with self._agents[agent]:
                    self._tell(kind, agent, seconds)
                    process = self.topology.fleet.agents[agent].popen
                    process.send_signal(signal.SIGSTOP)
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        process.send_signal(signal.SIGCONT)
            case "agent partitioned":
                async with self._agents[agent]:
                    self._tell(kind, agent, seconds)
                    self.topology.links[agent].cut()
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        self.topology.links[agent].heal()
            case "gateway restarted":
                async with self._gateways:
                    self._tell(kind, gateway)
                    self.topology.point(1 - gateway)
                    await self._again(self.topology.fleet.gateways, gateway, signal.SIGTERM)
                    self.topology.point(gateway, [index for index in range(AGENTS) if index % GATEWAYS == gateway])
            case "verifier killed":
                async with self._verifiers:
                    self._tell(kind, verifier)
                    await self._again(self.topology.fleet.verifiers, verifier, signal.SIGKILL)
                    await asyncio.sleep(1.0)  # that gateways come back to it before the other one goes

    async def _again(self, children: list[ManagedProcess], index: int, blow: signal.Signals) -> None:
        """End that process so, and start it anew on its port."""
        stack, old = self.topology.fleet.supervisor, children[index]
        old.popen.send_signal(blow)
        status = await asyncio.to_thread(old.popen.wait, DRAIN_SECONDS)
        assert status == (0 if blow == signal.SIGTERM else -blow), f"{old.arguments[0]} ended with status {status}"
        children[index] = stack.restart(old)
        await asyncio.to_thread(stack.wait_ready, children[index])

    def _tell(self, kind: Kind, index: int, seconds: float = 0.0) -> None:
        self.done[kind] += 1
        self.idle += not self.running()
        lasting = f" for {seconds:.1f} s" if seconds else ""
        after = time.monotonic() - self._began
        self.story.append(f"{after:6.1f} s  {kind} {index}{lasting}, {self.running()} streams running")
