"""Times one packed step of an engine over real sessions, each starting from the same state."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from verifier.engine.interface import Engine, Request, ScheduledSession

MOST_ROWS = 32
GREEDY = Sampling(temperature=0)


def time_step(engine: Engine, sessions: int, rows: int, contexts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Wall and CPU seconds of a step of `rows` rows (at most MOST_ROWS) for each session; closes the sessions again.

    The prefix cache holds all of a session's context but its last token, after the first call.
    """
    for key in range(sessions):
        request = Request(key, tuple(contexts[key]), GREEDY, 4 * MOST_ROWS, frozenset(), salt=str(key))
        num_uncomputed = engine.open(request)
        if num_uncomputed > 1:
            engine.step([ScheduledSession(key, num_uncomputed - 1)])
    work = [ScheduledSession(key, 1, _unlikely_draft(contexts[key], rows - 1)) for key in range(sessions)]
    cpu, wall = time.process_time(), time.perf_counter()
    engine.step(work)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for key in range(sessions):
        engine.close(key)
    return wall, cpu


def _unlikely_draft(context: Sequence[int], nodes: int) -> DraftSlice:
    """Two branches of tokens that the target hardly samples: the check is measured, not its success."""
    if not nodes:
        return EMPTY_DRAFT
    parents = tuple(max(-1, node - 2) for node in range(nodes))
    depths = tuple(1 + node // 2 for node in range(nodes))
    return DraftSlice(tuple(context[1 : nodes + 1]), parents, depths, depths)
