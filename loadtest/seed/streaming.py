"""EdgeDraft: the verifier's own scheduler, and desktops that draft on without waiting.

Without a device it is datacenter-only decoding with continuous batching, by the same scheduler and engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from edgedraft.wire import Commit, Draft, Open, encode_frame
from loadtest.seed.clock import Clock
from loadtest.seed.desktop import Desktop
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.profiles import Device, Link, Way
from loadtest.seed.server import LIMITS, Server
from loadtest.seed.target import Target
from verifier.scheduling.scheduler import SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

FIRST_WINDOW = 16


class Streaming:
    """A verifier that has run for a while: what its scheduler and the desktops learnt stays from run to run."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        edge: tuple[Device, Link, Drafts] | None,
        seed: int = 0,
        limits: SchedulerLimits = LIMITS,
    ) -> None:
        self.meters = Meters()
        self.clock = self._clock = clock
        self._target, self._edge = target, edge
        self._dice = random.Random(seed)
        self._server = Server(clock, target, steps, self.meters, self._deliver, limits)
        self._streams: dict[int, Stream] = {}
        self._desktops: dict[int, tuple[Desktop, Way, Way]] = {}
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        self._server.close()
        self._streams.clear()

    def begin(self, stream: Stream) -> None:
        self._streams[stream.key] = stream
        opened = opening(stream, self._target.eos, f"desktop {stream.slot}" if self._edge else "")
        self._server.open(opened)
        if self._edge:
            desktop, _, down = self._desktop(stream.slot)
            down.send(len(encode_frame([opened])), lambda: desktop.open(opened, stream.chat))
        self._server.turn()

    def _desktop(self, slot: int) -> tuple[Desktop, Way, Way]:
        if slot not in self._desktops:
            assert self._edge
            device, link, drafts = self._edge
            up = Way(self._clock, link, link.up, self._dice)
            down = Way(self._clock, link, link.down, self._dice)

            def send(draft: Draft) -> None:
                size = len(encode_frame([draft]))
                self.meters.up += size
                up.send(size, lambda: self._server.draft(draft))

            self._desktops[slot] = Desktop(self._clock, device, drafts, self.meters, send), up, down
        return self._desktops[slot]

    def _deliver(self, commits: Mapping[int, Commit]) -> None:
        for key, commit in commits.items():
            stream = self._streams[key]
            if self._edge:
                desktop, _, down = self._desktops[stream.slot]
                size = len(encode_frame([commit]))
                self.meters.down += size
                down.send(size, partial(desktop.commit, commit))
            self._committed(stream, commit.tokens)
            if commit.finish:
                del self._streams[key]
                self._committed(stream, ())


def opening(stream: Stream, eos: tuple[int, ...], agent: str) -> Open:
    """The Open of a stream, under its key."""
    chat, known = stream.chat, list(stream.chat.text[: stream.known])
    return Open(
        stream.key, list(chat.prompt), chat.sampling, chat.most, known, FIRST_WINDOW,
        eos=eos, agent=agent, salt=stream.salt,
    )  # fmt: skip
