"""A verifier in virtual time: the real scheduler over a target, whose steps take their time on a clock.

It knows no desktop and no link: commits are handed to whoever it was made for, drafts are given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgedraft.wire import Commit, Draft, Open
from loadtest.seed.clock import Clock
from loadtest.seed.fleet import Meters
from loadtest.seed.target import Target
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits
from verifier.scheduling.step_costs import StepCosts

LIMITS = SchedulerLimits(
    step_tokens=512, verify_nodes=16, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, prompt_lookup=False
)
EDGE_LIMITS = replace(LIMITS, prompt_lookup=True)  # as a verifier has it

Compute = Callable[[float, Callable[[], None]], None]


class Server:
    """`deliver` is told each step's commits by session; `compute` spends seconds and then calls back."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        meters: Meters,
        deliver: Callable[[Mapping[int, Commit]], None],
        limits: SchedulerLimits = LIMITS,
        compute: Compute | None = None,
    ) -> None:
        self._clock, self._target, self._meters, self._deliver = clock, target, meters, deliver
        self._compute = compute or clock.after
        self._scheduler = Scheduler(target.engine, limits)
        for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            self._scheduler.step_costs.record(rows, steps.seconds(rows))
        self._open: set[int] = set()
        self._stepping = False

    def __len__(self) -> int:
        """Sessions that are open."""
        return len(self._open)

    def open(self, opened: Open) -> None:
        """Begin a session, under the message's number; `turn` gets it going."""
        self._open.add(opened.session)
        spent = self._target.spent()
        self._scheduler.open(opened.session, opened, self._clock.now)
        self._meters.server += self._target.spent() - spent

    def draft(self, draft: Draft) -> None:
        spent = self._target.spent()
        self._scheduler.add_draft(draft.session, draft, self._clock.now)
        self._meters.server += self._target.spent() - spent
        self.turn()

    def close(self) -> None:
        """End all sessions."""
        for key in self._open:
            self._scheduler.close(key)
        self._open.clear()

    def turn(self) -> None:
        """Begin a step, if none is under way and there is work for one."""
        if self._stepping:
            return
        spent = self._target.spent()
        plan = self._scheduler.schedule(self._clock.now)
        if not plan.scheduled:
            self._meters.server += self._target.spent() - spent
            if plan.wake_at is not None:
                self._clock.at(plan.wake_at, self.turn)
            return
        progress = self._target.engine.step(plan.scheduled)
        took = self._target.seconds(plan.scheduled, self._target.spent() - spent)
        self._stepping = True
        began = self._clock.now
        self._compute(took, lambda: self._stepped(plan.scheduled, progress, began, took))

    def _stepped(self, work: list[ScheduledSession], progress: list[StepResult], began: float, took: float) -> None:
        spent = self._target.spent()
        progress = [made for made in progress if made.session in self._open]  # others are of an earlier run
        commits = self._scheduler.update(work, progress, began, self._clock.now)
        self._meters.server += took + self._target.spent() - spent
        self._meters.steps += 1
        for key, commit in commits.items():
            self._meters.verifies += 1
            self._meters.nodes += commit.nodes
            self._meters.accepted += commit.accepted
            if commit.finish:
                self._open.discard(key)
        self._deliver(commits)
        self._stepping = False
        self.turn()
