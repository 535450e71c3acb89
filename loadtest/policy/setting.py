"""A load with the requests of one seed, how much of it is measured, and the repeats of a system over seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtest.policy.cells import BiggerDraft, Cell, ServerLoad, step_costs
from loadtest.policy.world import World, make_world, measured_load, short_load
from loadtest.settings import BenchSettings
from loadtest.simulator.load import Load, System, run
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.target import Target, recorded_target
from loadtest.specedge.prices import Prices
from loadtest.specedge.systems import Costs, summarize

JITTER = 0.001  # seconds, of links that are not on the same machine

Summaries = list[dict[str, Any]]  # of one system, by seed
MakeSystem = Callable[[int], System]  # by seed


@dataclass(frozen=True)
class Effort:
    """How much is measured of each system, and what its costs and rounds are. `short` is for searches."""

    repeats: int
    prices: Prices
    round_nodes: int
    short: bool = False

    @classmethod
    def of(cls, settings: BenchSettings, short: bool = False) -> Effort:
        return cls(settings.repeats, Prices.of(settings), settings.round_nodes, short)

    def load(self, streams: int) -> Load:
        return short_load(streams) if self.short else measured_load(streams)


@dataclass(frozen=True)
class Setting:
    """One load with the requests of one seed."""

    load: ServerLoad
    seed: int

    @property
    def world(self) -> World:
        return make_world(self.load.acceptance, self.seed)

    @property
    def costs(self) -> Costs:
        return step_costs(self.load.steps)

    @property
    def target(self) -> Target:
        return recorded_target(self.world.chats, self.costs.steps.seconds, ())

    def edge(self, cell: Cell) -> EdgeProfile:
        draft = cell.bigger or BiggerDraft(self.load.acceptance, cell.draft_ms)
        device = DeviceProfile(f"{draft.draft_ms:g} ms", draft.draft_ms / 1e3, "given")
        link = LinkProfile(f"{cell.round_trip:g} ms", cell.round_trip / 1e3, JITTER if cell.round_trip else 0.0)
        # The same seed has the same texts, whatever the acceptance.
        return EdgeProfile(device, link, make_world(draft.acceptance, self.seed).oracle, prompt_lookup=False)


def run_repeats(
    load: ServerLoad, make: MakeSystem, effort: Effort, devices: int, plan: object | None = None
) -> Summaries:
    """Columns of `summarize`, and `plan`."""
    prices, offered = effort.prices, effort.load(load.streams)
    name = None if plan is None else str(plan)
    return [
        summarize(run(make(seed), Setting(load, seed).world.chats, offered, seed), prices, devices) | {"plan": name}
        for seed in range(effort.repeats)
    ]
