"""How many draft requests one forward takes: those whose expected tokens are worth the time that they add.

A forward of a draft model reads all weights, so on most devices several rows cost little more than one. The rows beyond
the first draft behind tokens that are less likely, and so prepare for what may be committed instead. What they cost is
measured (edge_agent/drafters/forward_costs.py): on a CPU it may not pay, on a GPU it nearly always does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import merge

MAX_REQUESTS_PER_SESSION = 16  # in one forward


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
