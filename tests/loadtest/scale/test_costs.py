"""Costs fitted to runs."""

from __future__ import annotations

import random

import pytest

from loadtest.scale.costs import NAMES, Costs, Counts, Run, error, fit
from tests.loadtest.scale.made_up import COSTS


def test_costs_are_recovered_from_runs_that_differ() -> None:
    rng = random.Random(1)
    runs: list[Run] = []
    for number in range(40):
        counts = Counts(**{name: rng.choice((0, rng.randrange(1, 1000))) for name in NAMES})
        runs.append(Run(str(number), counts, COSTS.seconds(counts), 2 * COSTS.seconds(counts)))
    found = fit(runs)
    assert [getattr(found, name) for name in NAMES] == pytest.approx([getattr(COSTS, name) for name in NAMES], rel=1e-3)
    assert fit(runs, "load").commit == pytest.approx(2 * COSTS.commit, rel=1e-3)
    assert error(found, runs) < 1e-3
    twice = Costs(*(2 * getattr(found, name) for name in NAMES))
    assert error(twice, runs) == pytest.approx(1.0)


def test_an_event_that_never_occurred_costs_nothing() -> None:
    found = fit([Run("", Counts(second=10), 0.5, 0.0), Run("", Counts(second=10, commit=100), 1.5, 0.0)])
    assert (found.second, found.commit, found.agent) == pytest.approx((0.05, 0.01, 0.0))
