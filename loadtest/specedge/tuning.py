"""The best plans of the baselines for a load, found on the recorded target: one search for every benchmark.

The search climbs from a plan that fills the hardware's free rows: it changes depth, nodes, positions per forward or the
least probability of a node, or depth and nodes together, as long as the throughput grows. The cost curves are those
measured in the same run, so the best plan here is close to the best one on the live engine; only that one is then run
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import DraftModel
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.datacenter_speculation import (
    BOTH,
    LOOKUP,
    MODEL,
    DatacenterSpeculation,
    SpeculationPlan,
)
from loadtest.simulator.systems.rounds import DraftRounds, RoundPlan
from loadtest.simulator.target import Target
from verifier.scheduling.step_costs import StepCosts

P = TypeVar("P", SpeculationPlan, RoundPlan)

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)  # draft forwards one after the other
NODES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # verified of a session in a step
WIDTHS = (1, 2, 4, 8)  # positions of a tree per draft forward
MIN_PATHS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)  # path probabilities from which on nodes are verified
SEED = 99
FREE = 1.2  # rows count as free up to the step that takes so many times as long as one of a single row
MOST_FREE_ROWS = 1024
FIRST_NODES, FIRST_WIDTH = 16, 4
# What is changed together, in steps of the values above.
MOVES: tuple[Mapping[str, int], ...] = (
    {"nodes": 1},
    {"nodes": -1},
    {"depth": 1},
    {"depth": -1},
    {"depth": 1, "nodes": 1},
    {"depth": -1, "nodes": -1},
    {"width": 1},
    {"width": -1},
    {"min_path": 1},
    {"min_path": -1},
)


@dataclass(frozen=True)
class TunedPlans:
    """What best_speculation, model_speculation and rounds run with."""

    speculation: SpeculationPlan
    model: SpeculationPlan
    rounds: RoundPlan

    def __str__(self) -> str:
        return f"best_speculation: {self.speculation}; model_speculation: {self.model}; rounds: {self.rounds}"


def tune_speculation(
    target: Target,
    steps: StepCosts,
    forwards: StepCosts,
    draft_model: DraftModel,
    chats: Sequence[RecordedChat],
    load: Load,
    drafts: Sequence[str] = (MODEL, LOOKUP, BOTH),
) -> tuple[SpeculationPlan, SpeculationPlan]:
    """The plans with the highest throughput: of all, and of those with the draft model alone.

    `drafts` are the kinds of drafts to try; prompt lookup has no depths, since it proposes chains.
    """

    @cache
    def rate(plan: SpeculationPlan) -> float:
        system = DatacenterSpeculation(Clock(), target, steps, forwards, draft_model, plan)
        return run(system, chats, load, SEED).tokens_per_second

    depth, nodes = first_plan(steps, load.concurrency)
    best: dict[str, SpeculationPlan] = {}
    for draft in drafts:
        axes = (
            {"nodes": NODES}
            if draft == LOOKUP
            else {"depth": DEPTHS, "nodes": NODES, "width": WIDTHS, "min_path": MIN_PATHS}
        )
        first = (
            SpeculationPlan(LOOKUP, 1, nodes) if draft == LOOKUP else SpeculationPlan(MODEL, depth, nodes, FIRST_WIDTH)
        )
        if draft == BOTH:
            first = replace(best.get(MODEL, first), draft=BOTH)
        best[draft] = climb(first, axes, rate)
    return max(best.values(), key=rate), best[MODEL]


def tune_rounds(
    target: Target,
    steps: StepCosts,
    edge: EdgeProfile,
    chats: Sequence[RecordedChat],
    load: Load,
    most_nodes: int,
) -> RoundPlan:
    """The plan with the highest throughput, of at most `most_nodes` nodes."""

    @cache
    def rate(plan: RoundPlan) -> float:
        return run(DraftRounds(Clock(), target, steps, edge, plan), chats, load, SEED).tokens_per_second

    axes = {"depth": DEPTHS, "nodes": [n for n in NODES if n <= most_nodes], "width": WIDTHS, "min_path": MIN_PATHS}
    depth, nodes = first_plan(steps, load.concurrency)
    return climb(RoundPlan(depth, min(nodes, most_nodes), width=FIRST_WIDTH), axes, rate)


def first_plan(steps: StepCosts, streams: int) -> tuple[int, int]:
    """Depth and nodes to begin with: as many nodes as have free rows, and half as deep."""
    one = steps.seconds(1)
    free = next((n for n in range(2, MOST_FREE_ROWS) if steps.seconds(n) > FREE * one), MOST_FREE_ROWS)
    room = min(FIRST_NODES, max(1, free // max(1, streams) - 1))
    nodes = max(n for n in NODES if n <= room)
    return max(depth for depth in DEPTHS if depth <= max(1, nodes // 2)), nodes


def climb(first: P, axes: Mapping[str, Sequence[float]], rate: Callable[[P], float]) -> P:
    """The plan from which no move of MOVES along `axes` is better. `rate` remembers what it has measured."""
    best, before = first, None
    while best != before:
        before = best
        for move in MOVES:
            while (moved := _moved(best, move, axes)) is not None and rate(moved) > rate(best):
                best = moved
    return best


def _moved(plan: P, move: Mapping[str, int], axes: Mapping[str, Sequence[float]]) -> P | None:
    """The plan after this move; None if an axis ends there or is not one of this search."""
    changed: dict[str, float] = {}
    for name, by in move.items():
        values = axes.get(name, ())
        at = values.index(getattr(plan, name)) + by if values else -1
        if not 0 <= at < len(values):
            return None
        changed[name] = values[at]
    return replace(plan, **changed)
