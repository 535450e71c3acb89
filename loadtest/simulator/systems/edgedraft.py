"""EdgeDraft, and the same verifier without agents: continuous batching by the verifier's own scheduler."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from edgedraft.wire import Commit, Draft, Open, encode_frame
from loadtest.simulator.agent import SimulatedAgent
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.network import LinkDirection
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.target import Target
from loadtest.simulator.verifier import EDGE_LIMITS, LIMITS, MakeScheduler, SimulatedVerifier
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

FIRST_WINDOW = 16


class DatacenterOnly:
    """Continuous batching without drafts. The scheduler's measurements persist from run to run."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        limits: SchedulerLimits = LIMITS,
        make_scheduler: MakeScheduler | None = None,
    ) -> None:
        """`make_scheduler`: as in SimulatedVerifier."""
        self.meters = Meters()
        self.clock = clock
        self._eos = target.eos
        self._verifier = SimulatedVerifier(
            clock, target, steps, self.meters, self._deliver, limits, make_scheduler=make_scheduler
        )
        self._streams: dict[int, Stream] = {}
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        self._verifier.close()
        self._streams.clear()

    def submit(self, stream: Stream) -> None:
        self._open(stream, agent="")
        self._verifier.start_step()

    def _open(self, stream: Stream, agent: str) -> Open:
        self._streams[stream.key] = stream
        opened = open_message(stream, self._eos, agent)
        self._verifier.open(opened)
        return opened

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        for key, commit in commits.items():
            stream = self._streams[key]
            self._on_tokens(stream, commit.tokens)
            if commit.finish:
                del self._streams[key]
                self._on_tokens(stream, ())


@dataclass(frozen=True)
class _AttachedAgent:
    agent: SimulatedAgent
    downlink: LinkDirection


class EdgeDraft(DatacenterOnly):
    """One agent per stream. The agents' measurements persist from run to run as well."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        edge: EdgeProfile,
        seed: int = 0,
        limits: SchedulerLimits = EDGE_LIMITS,
        make_scheduler: MakeScheduler | None = None,
    ) -> None:
        """`seed` is that of the links' jitter and loss."""
        super().__init__(clock, target, steps, limits, make_scheduler)
        self._edge = edge
        self._rng = random.Random(seed)
        self._agents: dict[int, _AttachedAgent] = {}

    def submit(self, stream: Stream) -> None:
        opened = self._open(stream, agent=f"desktop {stream.device}")
        attached = self._attached(stream.device)
        attached.downlink.send(len(encode_frame([opened])), partial(attached.agent.open, opened, stream.chat))
        self._verifier.start_step()

    def _attached(self, device: int) -> _AttachedAgent:
        if device not in self._agents:
            link = self._edge.link
            uplink = LinkDirection(self.clock, link, link.uplink_bps, self._rng)
            downlink = LinkDirection(self.clock, link, link.downlink_bps, self._rng)
            agent = SimulatedAgent(self.clock, self._edge, self.meters, self._sender(uplink))
            self._agents[device] = _AttachedAgent(agent, downlink)
        return self._agents[device]

    def _sender(self, uplink: LinkDirection) -> Callable[[Draft], None]:
        def send(draft: Draft) -> None:
            size = len(encode_frame([draft]))
            self.meters.bytes_up += size
            uplink.send(size, lambda: self._verifier.add_drafts([draft]))

        return send

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        for key, commit in commits.items():
            attached = self._agents[self._streams[key].device]
            size = len(encode_frame([commit]))
            self.meters.bytes_down += size
            attached.downlink.send(size, partial(attached.agent.commit, commit))
            super()._deliver({key: commit})


def open_message(stream: Stream, eos: tuple[int, ...], agent: str) -> Open:
    """The Open of a stream, under its key."""
    chat = stream.chat
    return Open(
        stream.key,
        list(chat.prompt),
        chat.sampling,
        chat.max_tokens,
        list(chat.text[: stream.num_prior]),
        FIRST_WINDOW,
        eos=eos,
        agent=agent,
        salt=stream.salt,
    )
