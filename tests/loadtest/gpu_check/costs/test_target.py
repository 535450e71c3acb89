"""Steps of a target: all sizes measured, from all layers or computed from few, and given up when time is over."""

from __future__ import annotations

import time

import pytest
import torch

from loadtest.gpu_check.costs.target import FULL, TINY, Plan, StepTimes, measure_target
from loadtest.gpu_check.costs.timing import Hardware
from loadtest.gpu_check.report import Section
from loadtest.gpu_check.shapes import TINY_TARGET
from loadtest.step_timing import MOST_ROWS

CPU, HARDWARE = torch.device("cpu"), Hardware(1e10, 1e11)


def measure(section: Section, plan: Plan = TINY, room: int | None = None) -> dict[int, StepTimes]:
    return measure_target(section, CPU, TINY_TARGET, plan, HARDWARE, room)


def test_steps_of_all_layers(section: Section) -> None:
    found = measure(section)
    assert list(found) == list(TINY.rows)
    assert all(0 < times.fastest <= times.step <= times.slowest for times in found.values())
    assert found[TINY.alone_rows].forward
    steps, ridge = section.tables
    assert [(row["context"], row["rows"]) for row in steps.rows] == [(c, n) for c in TINY.contexts for n in TINY.rows]
    assert [row["context"] for row in ridge.rows] == list(TINY.contexts)
    assert not section.skipped
    assert any("all 6 layers were measured" in note for note in section.notes)


def test_what_does_not_fit_is_computed_from_few_layers(section: Section) -> None:
    found = measure(section, room=0)
    assert list(found) == list(TINY.rows)
    assert any("computed from 1 and 2 of 6 layers" in note for note in section.notes)


def test_sizes_beyond_the_time_are_named(section: Section) -> None:
    section.deadline = time.monotonic()
    assert measure(section) == {}
    assert section.tables == []
    assert len(section.skipped) == len(TINY.sizes)
    assert section.skipped[0] == "1 rows at 32"


@pytest.mark.parametrize("plan", [FULL, TINY])
def test_a_plan_has_the_rows_that_it_says_and_fits_its_cache(plan: Plan) -> None:
    assert [size.rows for size in plan.sizes] == [rows for _ in plan.contexts for rows in plan.rows]
    for size in plan.sizes:
        assert size.each <= MOST_ROWS
        assert size.sessions * size.context <= plan.kv_tokens
        assert size.context % 16 == 0
