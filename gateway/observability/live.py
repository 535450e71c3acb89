"""Statistics of the last five minutes in memory, per owner, per tenant and in total, for the dashboard.

Sums are kept per interval of INTERVAL_SECONDS. The numbers of intervals, owners and requests are bounded. History and
costs come from the ledger.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from edgedraft.wire import Commit
from gateway.accounts import Owner
from gateway.records.speculation_stats import Mode

K = TypeVar("K")
INTERVAL_SECONDS = 5
INTERVALS = 60
MAX_OWNERS = 1024  # the most recently active owners are kept, and as many tenants
MAX_REQUESTS = 512  # per owner, for quantiles
_SIGNIFICANT_DIGITS = 4


@dataclass(slots=True)
class Interval:
    """Sums over one interval. Tokens are `edge` (drafted by an agent), `own` (drafted by the verifier) or `plain`."""

    number: int = 0
    edge: int = 0
    own: int = 0
    plain: int = 0
    forwards: int = 0
    drafts: int = 0  # forwards that verified an agent's draft
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0  # of verifier compute

    @property
    def tokens(self) -> int:
        return self.edge + self.own + self.plain


@dataclass(frozen=True, slots=True)
class _Request:
    at: float
    mode: Mode
    first_text: float | None
    per_token: float | None


class Activity:
    """Intervals and requests of one owner, of one tenant, or of all."""

    def __init__(self) -> None:
        self.steps: deque[Interval] = deque(maxlen=INTERVALS)
        self.requests: deque[_Request] = deque(maxlen=MAX_REQUESTS)

    def step(self, number: int) -> Interval:
        """The interval with that number, which is the latest one."""
        if not self.steps or self.steps[-1].number != number:
            self.steps.append(Interval(number))
        return self.steps[-1]


class LiveStats:
    """Activity of all owners and in total. `clock` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Activity()
        self._owners: OrderedDict[Owner, Activity] = OrderedDict()
        self._tenants: OrderedDict[str, Activity] = OrderedDict()

    def count_commits(self, owner: Owner) -> CommitCounter:
        """For the commits of one session of this owner."""
        return CommitCounter(self, owner)

    def intervals(self, owner: Owner) -> tuple[int, list[Interval]]:
        """The number of the present interval, and it for this owner, its tenant and all."""
        number = self.present()
        return number, [activity.step(number) for activity in self._activities(owner)]

    def present(self) -> int:
        """The number of the present interval."""
        return int(self._clock() // INTERVAL_SECONDS)

    def record_end(self, owner: Owner, mode: Mode, first_text: float | None, per_token: float | None) -> None:
        """Records a request that ended, with seconds to its first text and per token, None if it had none."""
        request = _Request(self._clock(), mode, first_text, per_token)
        for activity in self._activities(owner):
            activity.requests.append(request)

    def snapshot(self, subject: Owner | str | None) -> dict[str, Any]:
        """The body of /dashboard/data for one owner or the tenant of that name; None is the total."""
        match subject:
            case None:
                window = self._all
            case str():
                window = self._tenants.get(subject) or Activity()
            case _:
                window = self._owners.get(subject) or Activity()
        now = self._clock()
        latest = int(now // INTERVAL_SECONDS)
        by_number = {step.number: step for step in window.steps}
        steps = [by_number.get(number) or Interval(number) for number in range(latest - INTERVALS + 1, latest + 1)]
        names = [field.name for field in fields(Interval) if field.name != "number"]
        requests = [request for request in window.requests if now - request.at <= INTERVAL_SECONDS * INTERVALS]
        modes: list[Mode] = ["edge", "mixed", "datacenter"]
        return {
            "step_seconds": INTERVAL_SECONDS,
            "into_step": round(now - latest * INTERVAL_SECONDS, 3),
            "steps": {name: [_round(getattr(step, name)) for step in steps] for name in names},
            "requests": {mode: sum(request.mode == mode for request in requests) for mode in modes},
            "first_text": _quantiles([request.first_text for request in requests]),
            "per_token": _quantiles([request.per_token for request in requests]),
        }

    def _activities(self, owner: Owner) -> tuple[Activity, Activity, Activity]:
        return self._all, _kept(self._tenants, owner[0]), _kept(self._owners, owner)


class CommitCounter:
    """Counts the commits of one session. Its owner is looked up once in an interval."""

    def __init__(self, live: LiveStats, owner: Owner) -> None:
        self._live = live
        self._owner = owner
        self._number = -1
        self._intervals: list[Interval] = []

    def record(self, commit: Commit) -> None:
        if self._live.present() != self._number:
            self._number, self._intervals = self._live.intervals(self._owner)
        tokens = len(commit.tokens)
        accepted = min(commit.accepted, tokens)
        for interval in self._intervals:
            interval.forwards += 1
            interval.seconds += commit.seconds
            interval.plain += tokens - accepted
            if commit.verifier_drafted:
                interval.own += accepted
            elif commit.nodes:
                interval.edge += accepted
                interval.drafts += 1
                interval.drafted += commit.nodes
                interval.accepted += accepted


def _kept(activities: OrderedDict[K, Activity], key: K) -> Activity:
    """The activity of `key`, a new one if there is none; the one without use for longest makes room for it."""
    activity = activities.get(key)
    if activity is None:
        activity = activities[key] = Activity()
        if len(activities) > MAX_OWNERS:
            activities.popitem(last=False)
    else:
        activities.move_to_end(key)
    return activity


def _quantiles(values: list[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"p50": None, "p95": None}
    return {name: _round(known[int(share * (len(known) - 1))]) for name, share in (("p50", 0.5), ("p95", 0.95))}


def _round(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
