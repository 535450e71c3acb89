"""The session-by-session simulation of a service."""

from __future__ import annotations

import pytest

from loadtest.scale.service_simulation import ServiceSimulation
from loadtest.scale.service_size import busy_cores, size_service
from loadtest.scale.sizes import target_steps
from tests.loadtest.scale.made_up import ASSUMPTIONS, COSTS, RATES, STORE_COSTS


def test_a_simulated_service_has_the_computed_load() -> None:
    size = size_service(50_000, ASSUMPTIONS, RATES, target_steps(), COSTS)
    load = ServiceSimulation(size, ASSUMPTIONS, COSTS, STORE_COSTS).run(10)
    assert load.gateway == pytest.approx(busy_cores(size, ASSUMPTIONS, COSTS) / size.gateways, rel=0.1)
    assert load.gateway < load.gateway_p99 <= load.gateway_most
    assert load.requests == pytest.approx(size.streams / ASSUMPTIONS.stream_seconds, rel=0.15)
    assert load.scripts > size.gateways * STORE_COSTS.second.scripts + 4 * load.requests
    assert 0 < load.redis < 1
