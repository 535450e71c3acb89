"""EdgeDraft's own step-start rule against the best static one for each load, in virtual time.

A figure below its floor means that the scheduler has lost throughput. The static rules are those that
`edgedraft bench policy` found, the floors about 5 % below the ratios when they were set; requests, drafts and time are
deterministic.
"""

from __future__ import annotations

import pytest

from loadtest.policy.cells import Cell, ServerLoad
from loadtest.policy.comparison import edgedraft_system
from loadtest.policy.references.bounds import static_system
from loadtest.policy.references.static_scheduler import StaticPolicy
from loadtest.policy.setting import Setting
from loadtest.simulator.load import Load, System, run

TOKENS, WARMUP = 1000, 400


@pytest.mark.parametrize(
    ("streams", "round_trip", "draft_ms", "policy", "floor"),
    [
        (1, 0, 1, StaticPolicy(0.008, 1, 48), 1.03),
        (4, 0, 1, StaticPolicy(0.005, 1, 16, enough=4), 1.07),
        (1, 15, 3, StaticPolicy(0.0, 1, 32), 0.94),
        (4, 15, 3, StaticPolicy(0.0, 1, 32), 0.93),
        (16, 15, 3, StaticPolicy(0.002, 1, 8), 0.99),
    ],
)
def test_edgedraft_reaches_its_share_of_the_best_static_rule(
    streams: int, round_trip: float, draft_ms: float, policy: StaticPolicy, floor: float
) -> None:
    cell = Cell(ServerLoad("a100-32b", 0.75, streams), round_trip, draft_ms)

    def rate(system: System) -> float:
        load = Load(streams, tokens=TOKENS, warmup_tokens=WARMUP)
        return run(system, Setting(cell.load, 0).world.chats, load, seed=0).tokens_per_second

    assert rate(edgedraft_system(cell, 0)) / rate(static_system(cell, policy, 0)) >= floor
