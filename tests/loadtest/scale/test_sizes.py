"""The table of sizes."""

from __future__ import annotations

from loadtest.scale.sizes import simulate_sizes
from tests.loadtest.scale.made_up import ASSUMPTIONS, MEASURED, RATES


def test_sizes_name_what_exceeds_its_limit() -> None:
    small, large = simulate_sizes(MEASURED, RATES, ASSUMPTIONS, (100, 1_000_000), seconds=3)
    assert small["exceeded"] == "nothing"
    assert "the chart's replicas" in large["exceeded"]
    assert "PostgreSQL's connections" in large["exceeded"]
    assert large["gateways"] > 100 > small["gateways"]
