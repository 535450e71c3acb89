"""A verifier in virtual time: the real scheduler over a target, without links or agents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from edgedraft.wire import Commit, Draft, Open
from loadtest.simulator.clock import Clock
from loadtest.simulator.measurement import Meters
from loadtest.simulator.target import Target
from verifier.engine.interface import Engine, ScheduledSession, StepResult
from verifier.scheduling.policy import SelectDraftNodes, select_for_goodput
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits, SchedulerOutput
from verifier.scheduling.step_costs import StepCosts

LIMITS = SchedulerLimits(
    step_tokens=512, verify_nodes=64, prompt_delay=0.3, draft_wait=0.5, wait_share=1.0, prompt_lookup=False
)
EDGE_LIMITS = replace(LIMITS, prompt_lookup=True)  # a verifier's defaults
KNOWN_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Compute = Callable[[float, Callable[[], None]], None]


class StepScheduler(Protocol):
    """What a simulated verifier needs of a scheduler: the methods of verifier.scheduling.scheduler.Scheduler."""

    step_costs: StepCosts

    def open(self, key: int, message: Open, now: float) -> int | None: ...

    def add_draft(self, key: int, message: Draft, now: float) -> None: ...

    def close(self, key: int) -> None: ...

    def schedule(self, now: float) -> SchedulerOutput: ...

    def update(
        self, scheduled: Sequence[ScheduledSession], results: Sequence[StepResult], began: float, now: float
    ) -> dict[int, Commit]: ...


MakeScheduler = Callable[[Engine], StepScheduler]


class SimulatedVerifier:
    """`deliver` receives each step's commits by session; `compute` spends seconds and then calls back."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        step_costs: StepCosts,
        meters: Meters,
        deliver: Callable[[Mapping[int, Commit]], None],
        limits: SchedulerLimits = LIMITS,
        compute: Compute | None = None,
        select: SelectDraftNodes = select_for_goodput,
        make_scheduler: MakeScheduler | None = None,
    ) -> None:
        """`step_costs` are known to the scheduler from the start; `select` selects its draft nodes.

        `make_scheduler` makes another scheduler than the verifier's own, which has no use for `limits` and `select`.
        """
        self.nodes_per_step: Counter[int] = Counter()
        self._clock, self._target, self._meters, self._deliver = clock, target, meters, deliver
        self._compute = compute or clock.call_later
        engine = target.engine
        self._scheduler = make_scheduler(engine) if make_scheduler else Scheduler(engine, limits, select)
        for rows in KNOWN_ROWS:
            self._scheduler.step_costs.record(rows, step_costs.seconds(rows))
        self._open: set[int] = set()
        self._stepping = False

    def __len__(self) -> int:
        """The number of open sessions."""
        return len(self._open)

    def open(self, opened: Open) -> None:
        """Opens a session under the message's number; call start_step afterwards."""
        self._open.add(opened.session)
        began = self._target.cpu_clock()
        self._scheduler.open(opened.session, opened, self._clock.now)
        self._meters.server_seconds += self._target.cpu_clock() - began

    def add_drafts(self, drafts: Sequence[Draft]) -> None:
        """Takes in the drafts of one frame."""
        began = self._target.cpu_clock()
        for draft in drafts:
            self._scheduler.add_draft(draft.session, draft, self._clock.now)
        self._meters.server_seconds += self._target.cpu_clock() - began
        self.start_step()

    def close(self) -> None:
        """Closes all sessions."""
        for key in self._open:
            self._scheduler.close(key)
        self._open.clear()

    def start_step(self) -> None:
        """Starts a step, unless one is running or there is nothing to do."""
        if self._stepping:
            return
        began = self._target.cpu_clock()
        output = self._scheduler.schedule(self._clock.now)
        if not output.scheduled:
            self._meters.server_seconds += self._target.cpu_clock() - began
            if output.wake_at is not None:
                self._clock.call_at(output.wake_at, self.start_step)
            return
        results = self._target.engine.step(output.scheduled)
        seconds = self._target.step_seconds(output.scheduled, self._target.cpu_clock() - began)
        self._stepping = True
        started_at = self._clock.now
        self._compute(seconds, lambda: self._finish_step(output.scheduled, results, started_at, seconds))

    def _finish_step(
        self, scheduled: list[ScheduledSession], results: list[StepResult], started_at: float, seconds: float
    ) -> None:
        began = self._target.cpu_clock()
        results = [result for result in results if result.session in self._open]  # others belong to an earlier run
        commits = self._scheduler.update(scheduled, results, started_at, self._clock.now)
        self._meters.server_seconds += seconds + self._target.cpu_clock() - began
        self._meters.steps += 1
        self.nodes_per_step[sum(len(item.draft) for item in scheduled)] += 1
        for key, commit in commits.items():
            self._meters.verifies += 1
            self._meters.nodes += commit.nodes
            self._meters.accepted += commit.accepted
            if commit.finish:
                self._open.discard(key)
        self._deliver(commits)
        self._stepping = False
        self.start_step()
