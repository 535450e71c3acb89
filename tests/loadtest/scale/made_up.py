"""Made-up costs and rates for the tests of `bench scale`."""

from __future__ import annotations

from loadtest.scale.costs import Costs
from loadtest.scale.measure import Measured, StoreCosts
from loadtest.scale.service_size import Assumptions, StreamRates
from loadtest.scale.stores import StoreUsage

COSTS = Costs(1e-3, 5e-5, 3e-3, 2e-4, 1e-4, 5e-5, 4e-5, 1e-5, 6e-5, 3e-5, 1e-5, 1e-5)
RATES = StreamRates(tokens=1.5, nodes=1.0, draft_frames=2.0)
ASSUMPTIONS = Assumptions(active_share=0.02, tokens_per_second=50.0)
STORE_COSTS = StoreCosts(
    second=StoreUsage(1, 1e-4, 0.3, 1e-3),
    request=StoreUsage(4, 2e-4, 1.2, 4e-4),
    agent=StoreUsage(0, 0, 0.2, 1e-4),
    attach=StoreUsage(1, 1e-4, 1, 2e-4),
    redis_connections=4,
    postgres_connections=2,
)
MEASURED = Measured(COSTS, COSTS, 0.0, 40.0, 150.0, STORE_COSTS)
