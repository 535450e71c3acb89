"""The search for the baselines' plans."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtest.simulator.load import Load
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.datacenter_speculation import LOOKUP, MODEL, SpeculationPlan
from loadtest.simulator.systems.rounds import RoundPlan
from loadtest.simulator.target import Target
from loadtest.specedge.tuning import DEPTHS, NODES, WIDTHS, climb, first_plan, tune_rounds, tune_speculation
from verifier.scheduling.step_costs import StepCosts

LOAD = Load(1, tokens=30, warmup_tokens=2)


@pytest.mark.parametrize("best", [(1, 1), (4, 4), (8, 48), (3, 16)])
@pytest.mark.parametrize("first", [SpeculationPlan(MODEL, 1, 1), SpeculationPlan(MODEL, 8, 16, 4)])
def test_the_climb_finds_the_top(first: SpeculationPlan, best: tuple[int, int]) -> None:
    def rate(plan: SpeculationPlan) -> float:
        """Depth and nodes are worth little without each other: a ridge."""
        depth, nodes = DEPTHS.index(plan.depth), NODES.index(plan.nodes)
        depth, nodes = depth - DEPTHS.index(best[0]), nodes - NODES.index(best[1])
        return -abs(depth) - 3 * abs(depth - nodes) - abs(plan.width - 2)

    found = climb(first, {"depth": DEPTHS, "nodes": NODES, "width": WIDTHS}, rate)
    assert (found.depth, found.nodes, found.width) == (*best, 2)


def test_the_first_plan_fills_the_free_rows() -> None:
    steps = StepCosts()
    for rows in (1, 32, 64):
        steps.record(rows, max(1.0, rows / 32))
    assert first_plan(steps, 1)[1] == 16
    assert first_plan(steps, 8)[1] == 3
    assert first_plan(steps, 64) == (1, 1)


def test_rounds_have_no_more_nodes_than_the_setting_allows(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts, edge: EdgeProfile
) -> None:
    found = tune_rounds(target, steps, edge, chats, LOAD, most_nodes=2)
    assert isinstance(found, RoundPlan)
    assert found.nodes <= 2


def test_speculation_may_be_prompt_lookup_alone(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts, edge: EdgeProfile
) -> None:
    forwards = StepCosts()
    forwards.record(1, 10.0)
    best, model = tune_speculation(target, steps, forwards, edge.draft_model, chats, LOAD, (MODEL, LOOKUP))
    assert (best.draft, model.draft) == (LOOKUP, MODEL)
