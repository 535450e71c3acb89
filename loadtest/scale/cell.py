"""A part of a service, token by token: gateways as threads of measured costs between real schedulers and desktops.

Schedulers, targets played back, desktops and links are those of `bench seed`. A stream's home is one gateway, its
desktop is attached to that one or, lent, to another. What is no work of the gateway's takes no time here: sockets,
kernels and the network of the datacenter.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from edgedraft.wire import Commit, Draft, encode_frame
from loadtest.scale.costs import NAMES, Costs
from loadtest.scale.frames import Frames
from loadtest.scale.thread import Thread
from loadtest.seed.clock import Clock
from loadtest.seed.desktop import Desktop
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.profiles import Device, Link, Way
from loadtest.seed.server import LIMITS, Compute, Server
from loadtest.seed.streaming import opening
from loadtest.seed.target import Target
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

FREE = Costs(*[0.0] * len(NAMES))


@dataclass(frozen=True)
class Shape:
    """How many of what; `lent` is the share of streams whose desktop is another gateway's.

    `speed` is what share of a core each thread gets, `load` what clients and desktops take, in one thread.
    """

    gateways: int
    verifiers: int
    edge: bool
    lent: float = 0.0
    speed: float = 1.0
    load: Costs = FREE
    limits: SchedulerLimits = LIMITS


@dataclass(frozen=True)
class Parts:
    """`target` makes one verifier's, `steps` are its costs; `gateway` is what a gateway's work takes."""

    target: Callable[[], Target]
    steps: StepCosts
    gateway: Costs
    edge: tuple[Device, Link, Drafts]


@dataclass
class CellMeters(Meters):
    """Besides: CPU seconds and wakes of all gateways, frames from verifiers, commits told, frames of drafts."""

    gateway: float = 0.0
    wakes: int = 0
    frames: int = 0
    told: int = 0
    drafts: int = 0
    more: int = 0  # drafts beyond the first of a frame
    requests: int = 0


@dataclass
class _Seat:
    """Where a stream's drafts come in."""

    desktop: Desktop
    up: Way
    down: Way
    thread: Thread


@dataclass
class _Running:
    """A stream with its home and its verifier."""

    stream: Stream
    home: Thread
    server: Server
    seat: _Seat | None = field(default=None)


class Cell:
    """fleet.System: streams by slots, of which each has its home and its desktop."""

    def __init__(self, shape: Shape, parts: Parts, seed: int = 0) -> None:
        self.clock = Clock()
        self.meters = CellMeters()
        self._shape, self._parts, self._dice = shape, parts, random.Random(seed)
        self.gateways = [Thread(self.clock, shape.speed, parts.gateway.wake) for _ in range(shape.gateways)]
        self._load = Thread(self.clock, shape.speed)
        compute: Compute = lambda seconds, done: self.clock.after(seconds / shape.speed, done)  # noqa: E731
        self._eos: tuple[int, ...] = ()
        self._servers: list[Server] = []
        for _ in range(shape.verifiers):
            target = parts.target()
            self._eos = target.eos
            self._servers.append(
                Server(self.clock, target, parts.steps, self.meters, self._deliver, shape.limits, compute)
            )
        self._running: dict[int, _Running] = {}
        self._seats: dict[int, _Seat] = {}
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        for server in self._servers:
            server.close()
        self._running.clear()

    def begin(self, stream: Stream) -> None:
        home = self.gateways[stream.slot % len(self.gateways)]
        self.meters.requests += 1
        self._spend(home, self._parts.gateway.request, partial(self._open, stream, home))

    def _open(self, stream: Stream, home: Thread) -> None:
        server = min(self._servers, key=len)
        seat = self._seat(stream.slot) if self._shape.edge else None
        self._running[stream.key] = _Running(stream, home, server, seat)
        opened = opening(stream, self._eos, f"desktop {stream.slot}" if seat else "")
        server.open(opened)
        if seat:
            seat.down.send(len(encode_frame([opened])), partial(seat.desktop.open, opened, stream.chat))
        server.turn()

    def _seat(self, slot: int) -> _Seat:
        if slot not in self._seats:
            device, link, drafts = self._parts.edge
            number = slot % len(self.gateways)
            if self._dice.random() < self._shape.lent and len(self.gateways) > 1:
                number = (number + self._dice.randrange(1, len(self.gateways))) % len(self.gateways)
            up = Way(self.clock, link, link.up, self._dice)
            down = Way(self.clock, link, link.down, self._dice)
            thread = self.gateways[number]

            def send(sent: Sequence[Draft]) -> None:
                size = len(encode_frame(sent))
                self.meters.up += size
                self.meters.drafts += 1
                self.meters.more += len(sent) - 1
                self._load.do(self._shape.load.draft, partial(up.send, size, partial(self._drafted, thread, sent)))

            frames = Frames(self.clock, send)
            self._seats[slot] = _Seat(Desktop(self.clock, device, drafts, self.meters, frames.put), up, down, thread)
        return self._seats[slot]

    def _drafted(self, thread: Thread, drafts: Sequence[Draft]) -> None:
        """A frame of drafts has come to the gateway that has the agent."""
        if not (running := self._running.get(drafts[0].session)):
            return

        def taken() -> None:
            for draft in drafts:
                running.server.draft(draft)

        costs, more = self._parts.gateway, len(drafts) - 1
        lent = costs.lent_draft + more * costs.lent_another
        then = taken if thread is running.home else partial(self._spend, running.home, lent, taken)
        self._spend(thread, costs.draft + more * costs.another, then)

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        """A step's commits: one frame to each gateway that has sessions in it."""
        homes: defaultdict[int, list[tuple[_Running, Commit]]] = defaultdict(list)
        for key, commit in commits.items():
            if running := self._running.get(key):
                homes[self.gateways.index(running.home)].append((running, commit))
                if commit.finish:
                    del self._running[key]
        for number, frame in homes.items():
            costs = self._parts.gateway
            told = sum(1 for running, commit in frame if running.seat and not commit.finish)
            seconds = costs.frame + len(frame) * costs.commit + told * costs.told
            self.meters.frames += 1
            self._spend(self.gateways[number], seconds, partial(self._relayed, frame))

    def _relayed(self, frame: list[tuple[_Running, Commit]]) -> None:
        load = self._shape.load
        for running, commit in frame:
            self._load.do(load.commit, partial(self._told, running.stream, commit))
            if seat := running.seat:
                self.meters.told += 1
                if seat.thread is running.home:
                    self._tell(seat, commit)
                else:
                    self._spend(seat.thread, self._parts.gateway.lent_told, partial(self._tell, seat, commit))

    def _tell(self, seat: _Seat, commit: Commit) -> None:
        size = len(encode_frame([commit]))
        self.meters.down += size
        seat.down.send(size, partial(self._load.do, self._shape.load.told, partial(seat.desktop.commit, commit)))

    def _told(self, stream: Stream, commit: Commit) -> None:
        self._committed(stream, commit.tokens)
        if commit.finish:
            self._committed(stream, ())

    def _spend(self, thread: Thread, seconds: float, then: Callable[[], None]) -> None:
        busy, wakes = thread.busy, thread.wakes
        thread.do(seconds, then)
        self.meters.gateway += thread.busy - busy
        self.meters.wakes += thread.wakes - wakes
