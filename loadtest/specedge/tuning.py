"""The best plans of the baselines for a load: each depth and tree size is tried on the recorded target.

The cost curves are those measured in the same run, so the best plan here is close to the best one on the live engine;
only that one is then run there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.load import Load, System, run
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

P = TypeVar("P")

SPECULATION_PLANS = [
    SpeculationPlan(draft, depth, nodes)
    for draft in (MODEL, LOOKUP, BOTH)
    for depth in ((1, 2, 3, 4, 6) if draft != LOOKUP else (1,))
    for nodes in ((depth, 2 * depth) if draft != LOOKUP else (2, 4, 8))
]
ROUND_PLANS = [
    RoundPlan(depth, nodes) for depth in (1, 2, 4, 8, 16) for nodes in sorted({depth, 2 * depth, 32}) if nodes <= 32
]
SEED = 99


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
    draft_model: MemoizedDraftModel,
    chats: Sequence[RecordedChat],
    load: Load,
) -> tuple[SpeculationPlan, SpeculationPlan]:
    """The plans with the highest throughput: of all, and of those with the draft model alone."""

    def system(plan: SpeculationPlan) -> System:
        return DatacenterSpeculation(Clock(), target, steps, forwards, draft_model, plan)

    rates = _rates(SPECULATION_PLANS, system, chats, load)
    return _fastest(rates), _fastest({plan: rate for plan, rate in rates.items() if plan.draft == MODEL})


def tune_rounds(
    target: Target,
    steps: StepCosts,
    edge: EdgeProfile,
    chats: Sequence[RecordedChat],
    load: Load,
    plans: Sequence[RoundPlan] = ROUND_PLANS,
) -> RoundPlan:
    """The plan with the highest throughput."""
    return _fastest(_rates(plans, lambda plan: DraftRounds(Clock(), target, steps, edge, plan), chats, load))


def _rates(
    plans: Sequence[P], system: Callable[[P], System], chats: Sequence[RecordedChat], load: Load
) -> dict[P, float]:
    return {plan: run(system(plan), chats, load, SEED).tokens_per_second for plan in plans}


def _fastest(rates: Mapping[P, float]) -> P:
    return max(rates, key=lambda plan: rates[plan])
