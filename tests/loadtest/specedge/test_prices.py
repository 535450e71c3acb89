"""Cost per million tokens."""

from __future__ import annotations

import pytest

from loadtest.settings import BenchSettings
from loadtest.simulator.measurement import Measurement, Meters
from loadtest.specedge.prices import Prices, token_cost


def test_costs_are_hours_times_prices() -> None:
    measured = Measurement(seconds=36.0, tokens=1000, meters=Meters(server_seconds=30.0, device_seconds=18.0))
    cost = token_cost(measured, 2, Prices(server_hour=5.0, edge_hour=0.5, edge_watts=400, kwh=0.25))
    assert cost.rented == pytest.approx((5.0 + 2 * 0.5) * 0.01 * 1000)
    assert cost.used == pytest.approx((5.0 * 0.01 + 0.5 * 0.005) * 1000)
    assert cost.owned == pytest.approx((5.0 * 0.01 + 0.4 * 0.25 * 0.005) * 1000)
    assert cost.edge_share == pytest.approx(1 / 6)


def test_prices_are_settings() -> None:
    prices = Prices.of(BenchSettings.model_validate({"name": "policy", "edge_watts": 200}))
    assert prices.server_hour > prices.edge_hour > prices.electricity_hour > 0
    assert prices.electricity_hour == pytest.approx(0.2 * prices.kwh)
