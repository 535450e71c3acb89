"""Forwards of draft models: what a device's agent waits for, and a server that speculates by itself.

Both get the candidates of each row out of it. A server that cares takes its drafts from a CUDA graph, so that time is
the one that speculation beside the target is judged by; this project's agents launch every kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from edgedraft.sampling.sampler import propose_tokens
from edgedraft.wire import Sampling
from loadtest.gpu_check.costs.timing import (
    ForwardTimes,
    branching_rows,
    cache_contexts,
    milliseconds,
    random_contexts,
    release,
    time_forward,
)
from loadtest.gpu_check.report import Section
from loadtest.gpu_check.shapes import Shape, random_packed
from loadtest.report import Result

GREEDY = Sampling(temperature=0)
WIDTH = 4  # candidates of each row
ROWS_EACH = 4  # of a session
ROOM_PER_SESSION = 64


@dataclass(frozen=True)
class DraftPlan:
    context: int
    rows: Sequence[int]
    repeats: int


FULL = DraftPlan(256, (1, 2, 4, 8, 16, 32, 64, 128, 256), 7)
TINY = DraftPlan(32, (1, 4, 16), 2)


def measure_draft(
    section: Section, device: torch.device, shape: Shape, plan: DraftPlan, with_graphs: bool
) -> dict[int, ForwardTimes]:
    """The times by rows, in bfloat16."""
    sessions = max(max(1, rows // ROWS_EACH) for rows in plan.rows)
    packed = random_packed(shape, torch.bfloat16, device, sessions * (plan.context + ROOM_PER_SESSION))
    contexts = random_contexts(sessions, plan.context, shape.vocab)
    cache_contexts(packed, contexts)
    found: dict[int, ForwardTimes] = {}
    for count in plan.rows:
        if section.is_over:
            section.skipped.append(f"{shape.name}, {count} rows")
            continue
        used = max(1, count // ROWS_EACH)
        rows = branching_rows(packed, contexts[:used], count // used)
        found[count] = time_forward(packed, rows, plan.repeats, with_graphs, _candidates)
        release(rows)
    if found:
        table = [
            {"rows": count, "forward_ms": milliseconds(t.forward), "from_graph_ms": milliseconds(t.replayed)}
            for count, t in found.items()
        ]
        note = f"context {plan.context}, with {WIDTH} candidates of each row"
        section.tables.append(Result(f"draft forwards of {shape.name} in bfloat16", table, {}, {}, [note]))
    return found


def _candidates(logits: torch.Tensor) -> torch.Tensor:
    return propose_tokens(logits, GREEDY, range(len(logits)), WIDTH)[1]
