"""The compared systems by name."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.datacenter_speculation import BOTH, MODEL, SpeculationPlan
from loadtest.simulator.systems.rounds import RoundPlan
from loadtest.simulator.target import Target
from loadtest.specedge.prices import Prices
from loadtest.specedge.systems import SYSTEMS, WITH_DEVICES, Costs, make_system, mean_columns, summarize
from loadtest.specedge.tuning import TunedPlans
from verifier.scheduling.step_costs import StepCosts

PLANS = TunedPlans(SpeculationPlan(BOTH, 2, 4), SpeculationPlan(MODEL, 2, 2), RoundPlan(2, 4))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_made_by_name_and_summarized(
    name: str, chats: Sequence[RecordedChat], target: Target, steps: StepCosts, edge: EdgeProfile
) -> None:
    costs = Costs(steps, steps)
    devices = 1 if name in WITH_DEVICES else 0
    measured = run(make_system(name, target, costs, edge, PLANS), chats, Load(1, tokens=30, warmup_tokens=2), seed=1)
    row = summarize(measured, Prices(5.0, 0.5, 350, 0.2), devices)
    assert row["tokens_per_s"] > 0
    assert (row["bytes_per_token"] is not None) == (row["edge_share"] > 0) == bool(devices)
    assert (row["limit"] is not None) == (name in ("best_speculation", "model_speculation"))
    assert row["$_per_1M"] >= row["$_per_1M_used"] >= row["$_per_1M_owned"] > 0


def test_means_leave_out_runs_without_a_figure() -> None:
    runs = [{"a": 1.0, "b": None}, {"a": 3.0, "b": 4.0}, {"a": 2.0, "b": None}]
    assert mean_columns(runs, ["a", "b"]) == {"a": 2.0, "b": 4.0}
    assert mean_columns(runs[:1], ["b"]) == {"b": None}
