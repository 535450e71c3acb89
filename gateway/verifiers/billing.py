"""Compares what a verifier says that a session has cost with what its commits carried.

A session at one verifier is an attempt of a request. Seconds that commits carried are in the request's record; what an
attempt computed besides (a prompt that was given up, a hedged copy, a step that ended too late) comes in its Spent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from edgedraft.wire import Spent

MAX_REMEMBERED = 1 << 14  # attempts that have ended and whose Spent has not come

RecordSpent = Callable[[Spent, "float | None", Callable[[], None]], None]


class AttemptBilling:
    """The attempts of one gateway at all verifiers.

    `record` gets each Spent, the seconds of that attempt that are in the request's record, None for an attempt that is
    not known here, and what to call when it has been recorded.
    """

    def __init__(self, record: RecordSpent) -> None:
        self._record = record
        self._numbers = count(1)
        self._ended: OrderedDict[tuple[str, int], float] = OrderedDict()

    def new_attempt(self) -> int:
        """A number that no other attempt of this gateway has."""
        return next(self._numbers)

    def end(self, request: str, attempt: int, seconds: float) -> None:
        """An attempt is over for this gateway; its commits carried so many seconds."""
        self._ended[request, attempt] = seconds
        if len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)

    def take(self, spent: Spent, recorded: Callable[[], None]) -> None:
        """A verifier's report of an attempt, of this gateway or of one that is gone."""
        self._record(spent, self._ended.get((spent.request, spent.attempt)), recorded)
