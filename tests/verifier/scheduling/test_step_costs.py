"""Step costs at, between and beyond the measured sizes."""

from __future__ import annotations

import random

import pytest

from verifier.scheduling.step_costs import StepCosts


def test_sizes_between_and_beyond_the_measured_ones_are_interpolated_and_extrapolated() -> None:
    costs = StepCosts()
    assert not costs.has_measurements
    for rows, seconds in ((2, 0.02), (4, 0.03), (8, 0.07)):
        costs.record(rows, seconds)
    assert costs.seconds(1) == pytest.approx(0.02)
    assert costs.seconds(3) == pytest.approx(0.025)
    assert costs.seconds(6) == pytest.approx(0.05)
    assert costs.seconds(16) > costs.seconds(8)


def test_a_slower_machine_scales_all_sizes() -> None:
    costs = StepCosts()
    for rows in (1, 4, 8):
        costs.record(rows, 0.01 * (rows + 1))
    for _ in range(200):
        costs.record(1, 0.04)
    assert costs.seconds(1) == pytest.approx(0.04, rel=0.02)
    assert costs.seconds(8) > 0.12


def test_one_slow_step_has_no_lasting_effect() -> None:
    costs = StepCosts()
    for rows in (1, 4):
        costs.record(rows, 0.02)
    costs.record(4, 2.0)
    for _ in range(60):
        costs.record(4, 0.02)
        costs.record(1, 0.02)
    assert costs.seconds(1) == pytest.approx(0.02, rel=0.3)
    assert costs.seconds(4) == pytest.approx(0.02, rel=0.5)


def test_noise_does_not_change_what_a_seldom_measured_size_is_expected_to_take() -> None:
    """Measurements moved the scale up and the other sizes down for ever, until one of them was rounded to nothing."""
    costs, rng = StepCosts(), random.Random(1)
    costs.record(200, 0.2)
    for _ in range(50_000):
        rows = rng.choice((1, 2, 3, 4, 8))
        costs.record(rows, 0.001 * rows * rng.lognormvariate(0, 0.7) * (100 if rng.random() < 0.01 else 1))
    assert 0.02 < costs.seconds(200) < 2.0
    assert 0.0002 < costs.seconds(1) < 0.02


def test_a_step_that_took_no_time_is_no_measurement() -> None:
    costs = StepCosts()
    for _ in range(2):
        costs.record(1, 0.0)
    assert not costs.has_measurements
