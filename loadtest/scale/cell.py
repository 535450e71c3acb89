"""A part of a service, simulated token by token: gateways between real schedulers and simulated agents.

A gateway is a thread with measured costs (cpu_thread.py, costs.py); the rest is loadtest/simulator. A stream's home is
one gateway; its agent is attached to that one or, as a remote agent, to another. Sockets, kernels and the datacenter's
network take no time here.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgedraft.wire import Commit, Draft, encode_frame
from loadtest.scale.costs import NAMES, Costs
from loadtest.scale.cpu_thread import CpuThread
from loadtest.simulator.agent import SimulatedAgent
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.network import DraftBatcher, LinkDirection
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.systems.edgedraft import open_message
from loadtest.simulator.target import Target
from loadtest.simulator.verifier import LIMITS, SimulatedVerifier
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

FREE = Costs(*[0.0] * len(NAMES))


@dataclass(frozen=True)
class Shape:
    """How many processes there are.

    `remote_share` is the share of streams whose agent another gateway hosts, `speed` the share of a core that each
    thread gets, `load` what clients and agents spend, all in one thread.
    """

    gateways: int
    verifiers: int
    edge: bool
    remote_share: float = 0.0
    speed: float = 1.0
    load: Costs = FREE
    limits: SchedulerLimits = LIMITS


@dataclass(frozen=True)
class Parts:
    """`target` makes one verifier's target, `steps` are its costs; `gateway` are a gateway's costs."""

    target: Callable[[], Target]
    steps: StepCosts
    gateway: Costs
    edge: EdgeProfile


@dataclass
class CellMeters(Meters):
    """Also: the gateways' CPU seconds and wakes, verifiers' frames, commits passed to agents, agents' frames."""

    gateway_seconds: float = 0.0
    wakes: int = 0
    frames: int = 0
    agent_commits: int = 0
    draft_frames: int = 0
    extra_drafts: int = 0  # drafts beyond the first of a frame
    requests: int = 0


@dataclass
class _AttachedAgent:
    """An agent with its downlink and the gateway that hosts it."""

    agent: SimulatedAgent
    downlink: LinkDirection
    host: CpuThread


@dataclass
class _RunningStream:
    stream: Stream
    home: CpuThread
    verifier: SimulatedVerifier
    attached: _AttachedAgent | None


class Cell:
    """loadtest.simulator.load.System. A stream's device number decides its home and its agent."""

    def __init__(self, shape: Shape, parts: Parts, seed: int = 0) -> None:
        self.clock = Clock()
        self.meters = CellMeters()
        self._shape, self._parts, self._rng = shape, parts, random.Random(seed)
        self.gateways = [CpuThread(self.clock, shape.speed, parts.gateway.wake) for _ in range(shape.gateways)]
        self._load_thread = CpuThread(self.clock, shape.speed)
        self._eos: tuple[int, ...] = ()
        self._verifiers: list[SimulatedVerifier] = []
        for _ in range(shape.verifiers):
            target = parts.target()
            self._eos = target.eos
            self._verifiers.append(
                SimulatedVerifier(
                    self.clock, target, parts.steps, self.meters, self._deliver, shape.limits, self._compute
                )
            )
        self._running: dict[int, _RunningStream] = {}
        self._agents: dict[int, _AttachedAgent] = {}
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        for verifier in self._verifiers:
            verifier.close()
        self._running.clear()

    def submit(self, stream: Stream) -> None:
        home = self.gateways[stream.device % len(self.gateways)]
        self.meters.requests += 1
        self._spend(home, self._parts.gateway.request, partial(self._open, stream, home))

    def _compute(self, seconds: float, done: Callable[[], None]) -> None:
        self.clock.call_later(seconds / self._shape.speed, done)

    def _open(self, stream: Stream, home: CpuThread) -> None:
        verifier = min(self._verifiers, key=len)
        attached = self._attached(stream.device) if self._shape.edge else None
        self._running[stream.key] = _RunningStream(stream, home, verifier, attached)
        opened = open_message(stream, self._eos, f"desktop {stream.device}" if attached else "")
        verifier.open(opened)
        if attached:
            attached.downlink.send(len(encode_frame([opened])), partial(attached.agent.open, opened, stream.chat))
        verifier.start_step()

    def _attached(self, device: int) -> _AttachedAgent:
        if device not in self._agents:
            link = self._parts.edge.link
            number = device % len(self.gateways)
            if self._rng.random() < self._shape.remote_share and len(self.gateways) > 1:
                number = (number + self._rng.randrange(1, len(self.gateways))) % len(self.gateways)
            uplink = LinkDirection(self.clock, link, link.uplink_bps, self._rng)
            downlink = LinkDirection(self.clock, link, link.downlink_bps, self._rng)
            host = self.gateways[number]
            batcher = DraftBatcher(self.clock, self._sender(uplink, host))
            agent = SimulatedAgent(self.clock, self._parts.edge, self.meters, batcher.put)
            self._agents[device] = _AttachedAgent(agent, downlink, host)
        return self._agents[device]

    def _sender(self, uplink: LinkDirection, host: CpuThread) -> Callable[[Sequence[Draft]], None]:
        def send(drafts: Sequence[Draft]) -> None:
            size = len(encode_frame(drafts))
            self.meters.bytes_up += size
            self.meters.draft_frames += 1
            self.meters.extra_drafts += len(drafts) - 1
            arrived = partial(self._receive_drafts, host, drafts)
            self._load_thread.run(self._shape.load.draft, partial(uplink.send, size, arrived))

        return send

    def _receive_drafts(self, host: CpuThread, drafts: Sequence[Draft]) -> None:
        """A frame of drafts has arrived at the gateway that hosts the agent."""
        if not (running := self._running.get(drafts[0].session)):
            return

        def received() -> None:
            for draft in drafts:
                running.verifier.add_drafts([draft])

        costs, extra = self._parts.gateway, len(drafts) - 1
        remote = costs.remote_draft + extra * costs.remote_extra_draft
        then = received if host is running.home else partial(self._spend, running.home, remote, received)
        self._spend(host, costs.draft + extra * costs.extra_draft, then)

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        """A step's commits: one frame to each gateway that has sessions in it."""
        frames: defaultdict[int, list[tuple[_RunningStream, Commit]]] = defaultdict(list)
        for key, commit in commits.items():
            if running := self._running.get(key):
                frames[self.gateways.index(running.home)].append((running, commit))
                if commit.finish:
                    del self._running[key]
        for number, frame in frames.items():
            costs = self._parts.gateway
            to_agents = sum(1 for running, commit in frame if running.attached and not commit.finish)
            seconds = costs.frame + len(frame) * costs.commit + to_agents * costs.agent_commit
            self.meters.frames += 1
            self._spend(self.gateways[number], seconds, partial(self._relay, frame))

    def _relay(self, frame: list[tuple[_RunningStream, Commit]]) -> None:
        for running, commit in frame:
            self._load_thread.run(self._shape.load.commit, partial(self._report, running.stream, commit))
            if attached := running.attached:
                self.meters.agent_commits += 1
                send = partial(self._send_commit, attached, commit)
                if attached.host is running.home:
                    send()
                else:
                    self._spend(attached.host, self._parts.gateway.remote_agent_commit, send)

    def _send_commit(self, attached: _AttachedAgent, commit: Commit) -> None:
        size = len(encode_frame([commit]))
        self.meters.bytes_down += size
        received = partial(attached.agent.commit, commit)
        attached.downlink.send(size, partial(self._load_thread.run, self._shape.load.agent_commit, received))

    def _report(self, stream: Stream, commit: Commit) -> None:
        self._on_tokens(stream, commit.tokens)
        if commit.finish:
            self._on_tokens(stream, ())

    def _spend(self, thread: CpuThread, seconds: float, then: Callable[[], None]) -> None:
        busy, wakes = thread.busy, thread.wakes
        thread.run(seconds, then)
        self.meters.gateway_seconds += thread.busy - busy
        self.meters.wakes += thread.wakes - wakes
