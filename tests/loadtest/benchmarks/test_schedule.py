"""The fixed depths and the loads of `bench schedule`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgedraft.tree import DraftSlice
from loadtest.benchmarks.schedule import fixed_depth, make_loads, run_load
from loadtest.simulator.recorded_chats import from_trace
from loadtest.simulator.systems.traced_agents import ABSENT, ACCURATE, WRONG
from loadtest.simulator.target import recorded_target
from loadtest.workloads.trace import load_trace
from tests.loadtest.conftest import step_seconds
from verifier.scheduling.policy import select_for_goodput
from verifier.scheduling.step_costs import StepCosts


@pytest.mark.parametrize(("depth", "nodes"), [(1, [0]), (2, [0]), (8, [0])])
def test_a_fixed_depth_follows_the_most_probable_path(depth: int, nodes: list[int]) -> None:
    draft = DraftSlice((5, 6, 7), (-1, -1, 1), (8, 30, 34), (1, 1, 2))
    assert fixed_depth(depth)({1: draft}, {1: [0.7, 0.3, 0.2]}, 1, 1.0, 99, lambda rows: 1.0) == {1: nodes}
    deeper = DraftSlice((5, 6, 7), (-1, -1, 1), (30, 8, 12), (1, 1, 2))
    assert fixed_depth(depth)({1: deeper}, {1: [0.3, 0.7, 0.6]}, 1, 1.0, 99, lambda rows: 1.0) == {1: [1, 2][:depth]}


def test_every_load_runs_with_agents_and_without(steps: StepCosts) -> None:
    traced = load_trace()
    chats, trees = from_trace(traced), {number: chat.trees for number, chat in enumerate(traced)}
    target = recorded_target(chats, step_seconds, ())
    light, heavy, mixed = make_loads(chats)
    assert set(heavy.agents.values()) == {ACCURATE}
    assert set(mixed.agents.values()) == {ACCURATE, WRONG, ABSENT}
    for load in (light, *(replace(each, load=replace(each.load, tokens=200)) for each in (heavy, mixed))):
        drafting = run_load(target, steps, load, trees, select_for_goodput, seed=1)
        plain = run_load(target, steps, load, trees, None, seed=1)
        assert drafting.measured.meters.accepted > 0
        assert plain.measured.meters.nodes == 0
        assert set(plain.nodes_per_step) == {0}
