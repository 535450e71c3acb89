"""How many draft requests one forward takes: those whose expected tokens are worth the time that they add.

A forward of a draft model reads all weights, so on most devices several rows cost little more than one. The rows beyond
the first draft behind tokens that are less likely, and so prepare for what may be committed instead. What they cost is
measured: on a CPU it may not pay, on a GPU it nearly always does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from heapq import merge

MAX_REQUESTS_PER_SESSION = 16  # in one forward
MAX_FIRST_RATIO = 2.0  # of a first measurement to what was expected
SMOOTHING = 0.1  # weight of the newest value in a moving average


class ForwardCosts:
    """Seconds of a forward by its number of requests, as moving averages.

    A number that was never tried is taken to cost no more than the nearest smaller one, up to twice that number, so
    that it is tried; beyond that the time grows in proportion.
    """

    def __init__(self) -> None:
        self._requests: list[int] = []  # ascending
        self._seconds: dict[int, float] = {}

    def record(self, requests: int, seconds: float) -> None:
        """Learn from a forward of `requests` requests."""
        if requests not in self._seconds:
            # One slow forward, beside other work of the machine, must not keep this number from being tried again.
            expected = self.seconds(requests) if self._requests else seconds
            insort(self._requests, requests)
            self._seconds[requests] = min(seconds, MAX_FIRST_RATIO * expected)
        else:
            self._seconds[requests] += SMOOTHING * (seconds - self._seconds[requests])

    def seconds(self, requests: int) -> float:
        """Expected seconds of a forward of `requests` requests; 1.0 for one and before the first measurement."""
        if not self._requests:
            return 1.0
        index = bisect_left(self._requests, requests)
        if index < len(self._requests) and (self._requests[index] == requests or index == 0):
            return self._seconds[self._requests[index]]
        below = self._requests[index - 1]
        if index < len(self._requests):
            above = self._requests[index]
            share = (requests - below) / (above - below)
            return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])
        return self._seconds[below] * max(1.0, requests / (2 * below))


def select_requests(
    candidates: Mapping[int, Sequence[tuple[float, int]]], seconds: Callable[[int], float]
) -> list[tuple[int, int]]:
    """The requests of the next forward as (session, node id), each session's best one always among them.

    `candidates` holds each session's (probability, node id), the most probable first; `seconds` maps the number of
    requests to a forward's duration. The probability that a node's own next token is what the text needs is the tokens
    that drafting it is expected to add, so the number that adds the most tokens per second is taken.
    """
    selected = [(session, found[0][1]) for session, found in candidates.items()]
    if not selected:
        return []
    expected = sum(found[0][0] for found in candidates.values())
    best, count = expected / seconds(len(selected)), 0
    others = list(
        merge(*([(-mass, session, node) for mass, node in found[1:]] for session, found in candidates.items()))
    )
    for n, (negative_mass, _, _) in enumerate(others, 1):
        expected -= negative_mass
        if expected / seconds(len(selected) + n) > best:
            best, count = expected / seconds(len(selected) + n), n
    return selected + [(session, node) for _, session, node in others[:count]]
