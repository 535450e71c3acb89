"""Fault injection while streams run: a plan drawn from a seed, and each fault with its recovery."""

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
from tests.support.waiting import until_true

Kind = Literal["agent killed", "agent frozen", "agent partitioned", "gateway restarted", "verifier killed"]

DRAIN_SECONDS = 600.0


def plan(rng: random.Random, rounds: int) -> list[Kind]:
    """Each kind once per round, in random order; every second round has two more agent faults."""
    kinds: list[Kind] = []
    for number in range(rounds):
        these = [*get_args(Kind), *(("agent frozen", "agent partitioned") if number % 2 else ())]
        rng.shuffle(these)
        kinds += these
    return kinds


@dataclass
class Faults:
    """Injects faults, one at a time per process: another one waits until that has recovered."""

    topology: Topology
    rng: random.Random
    running: Callable[[], int]  # streams at this moment
    done: Counter[Kind] = field(default_factory=Counter)
    idle: int = 0  # faults while nothing was running
    events: list[str] = field(default_factory=list)
    _turn: int = 0
    _began: float = field(default_factory=time.monotonic)
    _agents: list[asyncio.Lock] = field(default_factory=lambda: [asyncio.Lock() for _ in range(AGENTS)])
    _gateways: asyncio.Lock = field(default_factory=asyncio.Lock)
    _verifiers: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def inject(self, kind: Kind) -> None:
        """Inject a fault; returns after the recovery."""
        self._turn += 1
        agent, gateway, verifier = self._turn % AGENTS, self.done[kind] % GATEWAYS, self.done[kind] % VERIFIERS
        seconds = self.rng.uniform(0.5, 6.0)
        match kind:
            case "agent killed":
                async with self._agents[agent]:
                    self._record(kind, agent)
                    await self._restart(self.topology.fleet.agents, agent, signal.SIGKILL)
            case "agent frozen":
                async with self._agents[agent]:
                    self._record(kind, agent, seconds)
                    process = self.topology.fleet.agents[agent].popen
                    process.send_signal(signal.SIGSTOP)
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        process.send_signal(signal.SIGCONT)
            case "agent partitioned":
                async with self._agents[agent]:
                    self._record(kind, agent, seconds)
                    self.topology.links[agent].cut()
                    try:
                        await asyncio.sleep(seconds)
                    finally:
                        self.topology.links[agent].heal()
            case "gateway restarted":
                async with self._gateways:
                    self._record(kind, gateway)
                    self.topology.point(1 - gateway)
                    await self._restart(self.topology.fleet.gateways, gateway, signal.SIGTERM)
                    self.topology.point(gateway, [index for index in range(AGENTS) if index % GATEWAYS == gateway])
            case "verifier killed":
                async with self._verifiers:
                    self._record(kind, verifier)
                    await self._restart(self.topology.fleet.verifiers, verifier, signal.SIGKILL)
                    connected = self.topology.has_all_verifiers
                    await until_true(lambda: asyncio.to_thread(connected), 120)  # before the other one goes

    async def _restart(self, children: list[ManagedProcess], index: int, signal_number: signal.Signals) -> None:
        """End a process with this signal, and restart it on its port."""
        stack, old = self.topology.fleet.supervisor, children[index]
        old.popen.send_signal(signal_number)
        status = await asyncio.to_thread(old.popen.wait, DRAIN_SECONDS)
        assert status == (0 if signal_number == signal.SIGTERM else -signal_number), (
            f"{old.arguments[0]} ended with status {status}"
        )
        children[index] = stack.restart(old)
        await asyncio.to_thread(stack.wait_ready, children[index])

    def _record(self, kind: Kind, index: int, seconds: float = 0.0) -> None:
        self.done[kind] += 1
        self.idle += not self.running()
        lasting = f" for {seconds:.1f} s" if seconds else ""
        after = time.monotonic() - self._began
        self.events.append(f"{after:6.1f} s  {kind} {index}{lasting}, {self.running()} streams running")
