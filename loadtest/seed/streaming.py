"""EdgeDraft: the verifier's own scheduler, and desktops that draft on without waiting.

Without a device it is datacenter-only decoding with continuous batching, by the same scheduler and engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from edgedraft.wire import Draft, Open, encode
from loadtest.seed.clock import Clock
from loadtest.seed.desktop import Desktop
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.profiles import Device, Link, Way
from loadtest.seed.target import Target
from verifier.costs import StepCosts
from verifier.engine import Progress, Work
from verifier.scheduler import Limits, Scheduler

FIRST_WINDOW = 16
LIMITS = Limits(step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, prompt_lookup=False)


class Streaming:
    """A verifier that has run for a while: what its scheduler and the desktops learnt stays from run to run."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        edge: tuple[Device, Link, Drafts] | None,
        seed: int = 0,
        limits: Limits = LIMITS,
    ) -> None:
        self.meters = Meters()
        self.clock = self._clock = clock
        self._target, self._edge = target, edge
        self._dice = random.Random(seed)
        self._scheduler = Scheduler(target.engine, limits)
        for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            self._scheduler.costs.measured(rows, steps.seconds(rows))
        self._streams: dict[int, Stream] = {}
        self._desktops: dict[int, tuple[Desktop, Way, Way]] = {}
        self._stepping = False
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        for key in [*self._streams]:
            self._scheduler.close(key)
        self._streams.clear()

    def begin(self, stream: Stream) -> None:
        self._streams[stream.key] = stream
        chat, known = stream.chat, list(stream.chat.text[: stream.known])
        agent = f"desktop {stream.slot}" if self._edge else ""
        opened = Open(
            stream.key, list(chat.prompt), chat.sampling, chat.most, known, FIRST_WINDOW,
            eos=self._target.eos, agent=agent, salt=stream.salt,
        )  # fmt: skip
        spent = self._target.spent()
        self._scheduler.open(stream.key, opened, self._clock.now)
        self.meters.server += self._target.spent() - spent
        if self._edge:
            desktop, _, down = self._desktop(stream.slot)
            down.send(len(encode([opened])), lambda: desktop.open(opened, chat))
        self._turn()

    def _desktop(self, slot: int) -> tuple[Desktop, Way, Way]:
        if slot not in self._desktops:
            assert self._edge
            device, link, drafts = self._edge
            up = Way(self._clock, link, link.up, self._dice)
            down = Way(self._clock, link, link.down, self._dice)

            def send(draft: Draft) -> None:
                size = len(encode([draft]))
                self.meters.up += size
                up.send(size, lambda: self._drafted(draft))

            self._desktops[slot] = Desktop(self._clock, device, drafts, self.meters, send), up, down
        return self._desktops[slot]

    def _drafted(self, draft: Draft) -> None:
        spent = self._target.spent()
        self._scheduler.draft(draft.session, draft, self._clock.now)
        self.meters.server += self._target.spent() - spent
        self._turn()

    def _turn(self) -> None:
        """Begin a step, if none is under way and there is work for one."""
        if self._stepping:
            return
        spent = self._target.spent()
        plan = self._scheduler.plan(self._clock.now)
        if not plan.work:
            self.meters.server += self._target.spent() - spent
            if plan.wake_at is not None:
                self._clock.at(plan.wake_at, self._turn)
            return
        progress = self._target.engine.step(plan.work)
        took = self._target.seconds(plan.work, self._target.spent() - spent)
        self._stepping = True
        began = self._clock.now
        self._clock.after(took, lambda: self._stepped(plan.work, progress, began, took))

    def _stepped(self, work: list[Work], progress: list[Progress], began: float, took: float) -> None:
        spent = self._target.spent()
        progress = [made for made in progress if made.session in self._streams]  # others are of an earlier run
        commits = self._scheduler.apply(work, progress, began, self._clock.now)
        self.meters.server += took + self._target.spent() - spent
        for key, commit in commits.items():
            self.meters.verifies += 1
            self.meters.nodes += commit.nodes
            self.meters.accepted += commit.accepted
            stream = self._streams[key]
            if self._edge:
                desktop, _, down = self._desktops[stream.slot]
                size = len(encode([commit]))
                self.meters.down += size
                down.send(size, partial(desktop.commit, commit))
            self._committed(stream, commit.tokens)
            if commit.finish:
                del self._streams[key]
                self._committed(stream, ())
        self._stepping = False
        self._turn()
