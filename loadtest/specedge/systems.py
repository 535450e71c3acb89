"""The compared systems by name: how each is made, tuned for a load, and summarized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, System
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.datacenter_speculation import DatacenterSpeculation
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.systems.rounds import DraftRounds
from loadtest.simulator.target import Target
from loadtest.specedge.prices import Prices, token_cost
from loadtest.specedge.tuning import TunedPlans, tune_rounds, tune_speculation
from verifier.scheduling.step_costs import StepCosts

EDGEDRAFT = "edgedraft"
SYSTEMS = {  # with their titles
    "datacenter_only": "datacenter only",
    "best_speculation": "best speculation",
    "model_speculation": "model speculation",
    "rounds": "edge, rounds",
    EDGEDRAFT: "EdgeDraft",
}
BASELINES = tuple(name for name in SYSTEMS if name != EDGEDRAFT)
WITH_DEVICES = ("rounds", EDGEDRAFT)
ADAPTIVE = ("datacenter_only", EDGEDRAFT)  # systems that adapt to measurements, and keep them from run to run


@dataclass(frozen=True)
class Costs:
    """Step costs by rows: of the target, and of a draft forward on the server."""

    steps: StepCosts
    forwards: StepCosts


def make_system(name: str, target: Target, costs: Costs, edge: EdgeProfile, plans: TunedPlans) -> System:
    """A new system of that name (SYSTEMS) on a new clock."""
    clock = Clock()
    match name:
        case "datacenter_only":
            return DatacenterOnly(clock, target, costs.steps)
        case "best_speculation":
            plan = plans.speculation
            return DatacenterSpeculation(clock, target, costs.steps, costs.forwards, edge.draft_model, plan)
        case "model_speculation":
            return DatacenterSpeculation(clock, target, costs.steps, costs.forwards, edge.draft_model, plans.model)
        case "rounds":
            return DraftRounds(clock, target, costs.steps, edge, plans.rounds)
        case _:
            return EdgeDraft(clock, target, costs.steps, edge)


def tune_baselines(
    target: Target,
    costs: Costs,
    edge: EdgeProfile,
    chats: Sequence[RecordedChat],
    load: Load,
    round_nodes: int,
) -> TunedPlans:
    """The baselines' best plans for this load, of rounds with at most `round_nodes` nodes."""
    speculation, model = tune_speculation(target, costs.steps, costs.forwards, edge.draft_model, chats, load)
    return TunedPlans(speculation, model, tune_rounds(target, costs.steps, edge, chats, load, round_nodes))


def summarize(measured: Measurement, prices: Prices, devices: int) -> dict[str, Any]:
    """One run as table columns. `devices` is how many take part, 0 for a system without."""
    cost = token_cost(measured, devices, prices)
    meters, first = measured.meters, measured.median_first_token
    has_links = meters.bytes_up + meters.bytes_down > 0
    return {
        "tokens_per_s": measured.tokens_per_second,
        "tokens_per_busy_s": measured.tokens / meters.server_seconds,
        "$_per_1M": cost.rented,
        "$_per_1M_used": cost.used,
        "$_per_1M_owned": cost.owned,
        # Capacity over this if the server's drafting cost it nothing, with the same trees.
        "limit": meters.server_seconds / (meters.server_seconds - meters.draft_seconds)
        if meters.draft_seconds
        else None,
        "edge_share": cost.edge_share,
        "first_token_ms": None if first is None else 1e3 * first,
        "inter_token_ms": 1e3 * measured.mean_inter_token,
        "inter_token_p50_ms": 1e3 * measured.inter_token_quantile(0.5),
        "inter_token_p99_ms": 1e3 * measured.inter_token_quantile(0.99),
        "tokens_per_verify": measured.tokens_per_verify,
        "nodes_per_verify": meters.nodes / meters.verifies,
        "bytes_per_token": (meters.bytes_up + meters.bytes_down) / measured.tokens if has_links else None,
    }


def mean_columns(runs: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """The mean of each column over the runs that have it; None if none has."""
    row: dict[str, Any] = {}
    for column in columns:
        values = [found[column] for found in runs if found[column] is not None]
        row[column] = mean(values) if values else None
    return row
