"""Profiles of measured costs: a graph replaces a step's forward where it is faster, and drafts come from graphs."""

from __future__ import annotations

import time

import pytest

from loadtest.gpu_check.costs.policy import TINY, make_profiles, run_policy
from loadtest.gpu_check.costs.target import StepTimes
from loadtest.gpu_check.costs.timing import ForwardTimes
from loadtest.gpu_check.report import Section

STEPS = {
    1: StepTimes(0.030, 0.029, 0.031, forward=0.028, replayed=0.020),
    4: StepTimes(0.032, 0.031, 0.033, forward=0.028, replayed=0.029),
    64: StepTimes(0.050, 0.049, 0.051),
}
FORWARDS = {1: ForwardTimes(0.010, 0.002), 8: ForwardTimes(0.011, None)}


def test_profiles_of_steps_as_they_are_and_from_graphs() -> None:
    profiles = make_profiles("h200", STEPS, FORWARDS)
    assert profiles["h200"].steps == {1: 0.030, 4: 0.032, 64: 0.050}
    assert profiles["h200-graphs"].steps == pytest.approx({1: 0.022, 4: 0.032, 64: 0.050})
    assert profiles["h200"].forwards == profiles["h200-graphs"].forwards == {1: 0.002, 8: 0.011}


def test_there_is_no_profile_without_measurements() -> None:
    assert make_profiles("h200", {}, FORWARDS) == {}
    assert make_profiles("h200", STEPS, {}) == {}
    assert set(make_profiles("h200", {64: STEPS[64]}, FORWARDS)) == {"h200"}


def test_cells_beyond_the_time_are_named(section: Section) -> None:
    section.deadline = time.monotonic()
    run_policy(section, make_profiles("h200", STEPS, FORWARDS), TINY)
    assert section.tables == []
    assert section.skipped == ["h200, 4 streams", "h200-graphs, 4 streams"]
