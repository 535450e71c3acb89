"""Steps of the target: the embedded engine on random weights, by rows and context, and the ridge.

The complete model is measured where it fits beside its KV cache; else two models of few layers, whose difference gives
the time of a layer. A step is the engine's own: packing, forward, and greedy verification of trees. Contexts come from
the prefix cache and are never computed. Forwards are also timed alone and from a CUDA graph, for few rows.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch

from edgedraft.runtime.packed_model import PackedModel
from loadtest.gpu_check.costs.timing import (
    Hardware,
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
from loadtest.step_timing import MOST_ROWS, time_step
from verifier.engine.transformers_engine import TransformersEngine

DTYPE = torch.bfloat16
ROWS_EACH = 8  # of a session, unless its context leaves room for few sessions
ROOM_PER_SESSION = 4 * MOST_ROWS + 16  # slots beside the context, for what a request may ask for
MEMORY_SHARE = 0.85  # of what is free
RIDGE, FREE = 2.0, 1.2  # times the time of one row


@dataclass(frozen=True)
class Plan:
    """What is measured: contexts, the first one being that of the profile, and rows.

    `kv_tokens` bound the contexts of all sessions together. Forwards are timed alone, and from a graph where that can
    be captured, up to `alone_rows`.
    """

    contexts: Sequence[int]
    rows: Sequence[int]
    kv_tokens: int
    alone_rows: int
    repeats: int
    few_layers: tuple[int, int]
    with_graphs: bool = True

    @property
    def sizes(self) -> list[Size]:
        return [self._size(context, rows) for context in self.contexts for rows in self.rows]

    def _size(self, context: int, rows: int) -> Size:
        sessions = min(max(1, rows // ROWS_EACH), self.kv_tokens // context)
        return Size(context, sessions, rows // sessions)

    @property
    def slots(self) -> int:
        return max(size.sessions * (size.context + ROOM_PER_SESSION) for size in self.sizes)


@dataclass(frozen=True)
class Size:
    """Sessions of `context` tokens with `each` rows."""

    context: int
    sessions: int
    each: int

    @property
    def rows(self) -> int:
        return self.sessions * self.each

    def __str__(self) -> str:
        return f"{self.rows} rows at {self.context}"


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of a step with its fastest and slowest; of the forward alone and from a graph, where timed."""

    step: float
    fastest: float
    slowest: float
    forward: float | None = None
    replayed: float | None = None


FULL = Plan((256, 8192, 2048, 1024), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), 131072, 64, 5, (4, 12))
TINY = Plan((32, 64), (1, 4, 16), 128, 4, 2, (1, 2))


def measure_target(
    section: Section, device: torch.device, shape: Shape, plan: Plan, hardware: Hardware, room: int | None = None
) -> dict[int, StepTimes]:
    """The times by rows at the first context; tables of all. `room` is the memory to use, if not what is free."""
    room = _free_bytes(device) if room is None else room
    is_whole = _bytes(shape, shape.layers, plan.slots) <= MEMORY_SHARE * room
    if is_whole:
        times = _measure_layers(section, device, shape, shape.layers, plan, section.deadline)
        section.notes.append(f"all {shape.layers} layers were measured")
    else:
        few, more = plan.few_layers
        now = time.monotonic()
        first = _measure_layers(section, device, shape, few, plan, (now + section.deadline) / 2)
        second = _measure_layers(section, device, shape, more, plan, section.deadline)
        times = {size: _scale(first[size], second[size], shape, plan) for size in first if size in second}
        section.notes.append(
            f"computed from {few} and {more} of {shape.layers} layers, since all of them need "
            f"{_bytes(shape, shape.layers, plan.slots) / 1e9:.0f} GB and {room / 1e9:.0f} are free: the difference of "
            "both is that many layers' time"
        )
    missing = [str(size) for size in plan.sizes if size not in times]
    section.skipped += missing
    if times:
        section.tables += [_step_table(shape, times, hardware), _ridge_table(times)]
    return {size.rows: found for size, found in times.items() if size.context == plan.contexts[0]}


def _measure_layers(
    section: Section, device: torch.device, shape: Shape, layers: int, plan: Plan, deadline: float
) -> dict[Size, StepTimes]:
    began = time.perf_counter()
    packed = random_packed(shape, DTYPE, device, plan.slots, layers)
    section.notes.append(f"{shape.name} with {layers} layers was made in {time.perf_counter() - began:.1f} s")
    most = max(size.sessions for size in plan.sizes)
    engine = TransformersEngine(packed, shape.vocab, packed.block_manager.num_tokens, most)
    found: dict[Size, StepTimes] = {}
    for context, sizes in _by_context(plan.sizes):
        if time.monotonic() >= deadline:
            break
        contexts = random_contexts(max(size.sessions for size in sizes), context, shape.vocab)
        cache_contexts(packed, contexts)
        for size in sizes:
            if time.monotonic() < deadline:
                found[size] = _time_size(engine, packed, size, contexts, plan)
    del engine, packed
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _time_size(
    engine: TransformersEngine,
    packed: PackedModel,
    size: Size,
    contexts: Sequence[Sequence[int]],
    plan: Plan,
) -> StepTimes:
    # The first step of a size only warms up.
    seconds = [time_step(engine, size.sessions, size.each, contexts)[0] for _ in range(plan.repeats + 1)][1:]
    step = median(seconds), min(seconds), max(seconds)
    if size.context != plan.contexts[0] or size.rows > plan.alone_rows:
        return StepTimes(*step)
    rows = branching_rows(packed, contexts[: size.sessions], size.each)
    alone = time_forward(packed, rows, plan.repeats, plan.with_graphs)
    release(rows)
    return StepTimes(*step, alone.forward, alone.replayed)


def _scale(few: StepTimes, more: StepTimes, shape: Shape, plan: Plan) -> StepTimes:
    """The times of all layers, from those of two numbers of them."""
    a, b = plan.few_layers

    def scale(x: float | None, y: float | None) -> float | None:
        return None if x is None or y is None else x + (shape.layers - a) * max(0.0, y - x) / (b - a)

    def both(x: float, y: float) -> float:
        return scale(x, y) or x

    return StepTimes(
        both(few.step, more.step),
        both(few.fastest, more.fastest),
        both(few.slowest, more.slowest),
        scale(few.forward, more.forward),
        scale(few.replayed, more.replayed),
    )


def _step_table(shape: Shape, times: dict[Size, StepTimes], hardware: Hardware) -> Result:
    rows: list[dict[str, Any]] = []
    for size, found in times.items():
        kv_bytes = size.sessions * size.context * shape.layers * shape.kv_values * DTYPE.itemsize
        read, operations = DTYPE.itemsize * shape.step_weights + kv_bytes, 2 * shape.step_weights * size.rows
        least = hardware.least_seconds(read, operations)
        rows.append(
            {
                "context": size.context,
                "rows": size.rows,
                "sessions": size.sessions,
                "step_ms": 1e3 * found.step,
                "spread_ms": f"{1e3 * found.fastest:.4g}-{1e3 * found.slowest:.4g}",
                "forward_ms": milliseconds(found.forward),
                "from_graph_ms": milliseconds(found.replayed),
                "limit_ms": 1e3 * least,
                "step_over_limit": found.step / least,
            }
        )
    notes = [
        "step: the engine's, with greedy verification of trees; forward: the model's alone, with what is prepared for "
        "it; from graph: the same kernels without launches",
        "limit: weights, keys and values read once at the measured bandwidth, or the products of all weights at the "
        "measured rate, whichever takes longer",
    ]
    return Result(f"steps of {shape.name} in bfloat16", rows, {}, {}, notes)


def _ridge_table(times: dict[Size, StepTimes]) -> Result:
    rows: list[dict[str, Any]] = []
    for context, sizes in _by_context(times):
        steps = {size.rows: times[size].step for size in sizes}
        rows.append(
            {
                "context": context,
                "rows_measured": f"{min(steps)}-{max(steps)}",
                f"rows_at_{FREE:g}_times_one": _rows_at(steps, FREE),
                f"ridge_rows_at_{RIDGE:g}_times_one": _rows_at(steps, RIDGE),
            }
        )
    return Result("the ridge: rows of a step that takes so many times as long as one of a single row", rows, {}, {})


def _rows_at(steps: dict[int, float], times: float) -> str:
    """Interpolated between the measured sizes."""
    measured = sorted(steps)
    for rows in range(1, measured[-1] + 1):
        if float(np.interp(rows, measured, [steps[n] for n in measured])) >= times * steps[measured[0]]:
            return str(rows)
    return f"more than {measured[-1]}"


def _by_context(sizes: Iterable[Size]) -> list[tuple[int, list[Size]]]:
    context_of: Callable[[Size], int] = lambda size: size.context  # noqa: E731
    return [(context, list(group)) for context, group in groupby(sizes, key=context_of)]


def _bytes(shape: Shape, layers: int, slots: int) -> int:
    """Of weights and KV cache."""
    weights = shape.weights - (shape.layers - layers) * shape.layer_weights
    return DTYPE.itemsize * (weights + layers * shape.kv_values * slots)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
