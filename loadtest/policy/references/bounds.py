"""What EdgeDraft's own rule is held against: the best static rule for a cell, and drafts that are always there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from edgedraft.wire import MAX_WINDOW
from loadtest.policy.cells import Cell, ServerLoad
from loadtest.policy.references.ideal_scheduler import IdealScheduler
from loadtest.policy.references.static_scheduler import StaticPolicy, StaticScheduler
from loadtest.policy.setting import Effort, Setting, Summaries, run_repeats
from loadtest.policy.world import trial_load
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import System, run
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from verifier.scheduling.policy import draft_window

# Tried one field at a time, the others kept, until no field changes any more or SEARCH_ROUNDS are over.
CHOICES: dict[str, tuple[float, ...]] = {
    "wait": (0.0, 0.002, 0.005, 0.008, 0.012, 0.016, 0.02, 0.025, 0.03, 0.04),
    "enough": (0, 1, 4, 8, 12),
    "groups": (1, 2, 3),
    "nodes": (4, 8, 16, 32, 48),
}
SEARCH_ROUNDS = 3
SEARCH_SEED = 99
FIRST_POLICY = StaticPolicy(wait=0.008, groups=1, nodes=16, enough=4)


def static_system(cell: Cell, policy: StaticPolicy, seed: int) -> System:
    """EdgeDraft's agents and trees with a static step-start rule."""
    setting = Setting(cell.load, seed)
    steps = setting.costs.steps
    window = draft_window(policy.nodes, MAX_WINDOW)
    return EdgeDraft(
        Clock(),
        setting.target,
        steps,
        setting.edge(cell),
        seed,
        make_scheduler=lambda engine: StaticScheduler(engine, policy, window),
    )


def best_static_policy(cell: Cell) -> StaticPolicy:
    """The one with the highest throughput of those tried."""
    rates: dict[StaticPolicy, float] = {}
    chats, trial = Setting(cell.load, 0).world.chats, trial_load(cell.load.streams)

    def rate(policy: StaticPolicy) -> float:
        if policy not in rates:
            rates[policy] = run(static_system(cell, policy, 0), chats, trial, SEARCH_SEED).tokens_per_second
        return rates[policy]

    best = FIRST_POLICY
    for _ in range(SEARCH_ROUNDS):
        before = best
        for name, values in CHOICES.items():
            if name != "groups" or cell.load.streams > 1:
                best = max((replace(best, **{name: value}) for value in values), key=rate)
        if best == before:
            break
    return best


@lru_cache(maxsize=64)
def ideal(load: ServerLoad, effort: Effort) -> Summaries:
    """Drafts that are always there."""
    return run_repeats(load, lambda seed: _ideal_system(load, seed), effort, devices=0)


def _ideal_system(load: ServerLoad, seed: int) -> System:
    setting = Setting(load, seed)
    return DatacenterOnly(
        Clock(),
        setting.target,
        setting.costs.steps,
        make_scheduler=lambda engine: IdealScheduler(engine, setting.world, load.streams),
    )
