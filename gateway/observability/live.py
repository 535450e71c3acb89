"""Statistics of the last five minutes in memory, per owner and in total, for the dashboard.

Sums are kept per interval of INTERVAL_SECONDS. The numbers of intervals, owners and requests are bounded. History and
costs come from the ledger.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from edgedraft.wire import Commit
from gateway.accounts import Owner
from gateway.records.speculation_stats import Mode

INTERVAL_SECONDS = 5
INTERVALS = 60
MAX_OWNERS = 1024  # the most recently active owners are kept
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
    """Intervals and requests of one owner, or of all."""

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

    def record_commit(self, owner: Owner, commit: Commit) -> None:
        """Counts one commit of a session of this owner."""
        number = int(self._clock() // INTERVAL_SECONDS)
        accepted = min(commit.accepted, len(commit.tokens))
        for step in (self._all.step(number), self._of_owner(owner).step(number)):
            step.forwards += 1
            step.seconds += commit.seconds
            step.plain += len(commit.tokens) - accepted
            if commit.verifier_drafted:
                step.own += accepted
            elif commit.nodes:
                step.edge += accepted
                step.drafts += 1
                step.drafted += commit.nodes
                step.accepted += accepted

    def record_end(self, owner: Owner, mode: Mode, first_text: float | None, per_token: float | None) -> None:
        """Records a request that ended, with seconds to its first text and per token, None if it had none."""
        request = _Request(self._clock(), mode, first_text, per_token)
        self._all.requests.append(request)
        self._of_owner(owner).requests.append(request)

    def snapshot(self, owner: Owner | None) -> dict[str, Any]:
        """The body of /dashboard/data for one owner; None is the total."""
        window = self._all if owner is None else self._owners.get(owner) or Activity()
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

    def _of_owner(self, owner: Owner) -> Activity:
        window = self._owners.get(owner)
        if window is None:
            window = self._owners[owner] = Activity()
            if len(self._owners) > MAX_OWNERS:
                self._owners.popitem(last=False)
        else:
            self._owners.move_to_end(owner)
        return window


def _quantiles(values: list[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"p50": None, "p95": None}
    return {name: _round(known[int(share * (len(known) - 1))]) for name, share in (("p50", 0.5), ("p95", 0.95))}


def _round(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
