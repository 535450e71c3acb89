"""The grid of cells, and their step costs."""

from __future__ import annotations

import pytest

from loadtest.policy.cells import Cell, ServerLoad, cells_by_load, step_costs
from loadtest.settings import BenchSettings
from loadtest.simulator.profiles import a100_steps


def test_cells_of_one_load_differ_in_their_devices_only() -> None:
    grid = {"acceptance": "0.6,0.75", "round_trips": "0,15", "draft_ms": "3", "streams": "4", "steps": "a100-32b"}
    settings = BenchSettings.model_validate({"name": "policy", **grid})
    first, second = cells_by_load(settings)
    assert first == [Cell(ServerLoad("a100-32b", 0.6, 4), trip, 3) for trip in (0, 15)]
    assert {cell.load for cell in second} == {ServerLoad("a100-32b", 0.75, 4)}
    assert len({cell.name for cell in first + second}) == 4


def test_step_costs_are_named_by_hardware_and_size() -> None:
    costs = step_costs("a100-32b")
    assert costs.steps.seconds(1) == a100_steps(32.8e9).seconds(1)
    assert costs.forwards.seconds(1) < 0.1 * costs.steps.seconds(1)
    assert step_costs("h100-14b").steps.seconds(1) < step_costs("a100-14b").steps.seconds(1)
    cpu = step_costs("cpu")
    assert cpu.forwards.seconds(16) == pytest.approx(0.3 * cpu.steps.seconds(16))
