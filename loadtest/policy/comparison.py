"""All systems in each cell, with the same requests and the same drafts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from statistics import mean, stdev
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.policy.cells import Cell, ServerLoad, cells_by_load, names
from loadtest.policy.parallel import measure_all
from loadtest.policy.references.bounds import best_static_policy, ideal, static_system
from loadtest.policy.setting import Effort, Setting, Summaries, run_repeats
from loadtest.policy.world import plan_load
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import System
from loadtest.simulator.systems.datacenter_speculation import (
    LOOKUP,
    MODEL,
    DatacenterSpeculation,
    SpeculationPlan,
)
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.systems.rounds import DraftRounds
from loadtest.specedge.prices import Prices
from loadtest.specedge.systems import EDGEDRAFT, SYSTEMS, mean_columns
from loadtest.specedge.tuning import tune_rounds, tune_speculation

COLUMNS = (
    "tokens_per_s",
    "tokens_per_busy_s",
    "tokens_per_verify",
    "nodes_per_verify",
    "$_per_1M",
    "$_per_1M_used",
    "$_per_1M_owned",
    "limit",
    "inter_token_ms",
)


PAID = {"$_per_1M": "rented", "$_per_1M_used": "while drafting", "$_per_1M_owned": "owned"}
LIMIT_NOTE = "limit: draft and verify time of the best speculation beside the target, over its verify time"
OVER = tuple(SYSTEMS[name] for name in ("datacenter_only", "best_speculation", "rounds"))


def compare(settings: BenchSettings) -> Result:
    """A row for each system and cell. With `jobs` above 1 the loads are divided among processes."""
    groups = cells_by_load(settings)
    systems, effort = selected_systems(settings), Effort.of(settings, settings.short)
    rows: list[dict[str, Any]] = []
    with progress("cells", sum(map(len, groups)), "cells") as advance:
        measure = partial(measure_cells, systems=systems, effort=effort)
        for cells, found in measure_all(measure, groups, settings.jobs):
            rows += found
            advance(len(cells), names(cells))
    order = {cell.name: i for i, cell in enumerate(cell for cells in groups for cell in cells)}
    rows.sort(key=lambda row: order[row["cell"]])
    if settings.plots:
        from loadtest.policy.plots import draw

        draw(_ratios(groups, rows), settings.plots)
    return Result(
        "systems with a draft of given acceptance",
        rows,
        {},
        {
            "repeats": settings.repeats,
            "loads": {n: vars(effort.load(n)) for n in settings.streams},
            "cells": {cell.name: asdict(cell) for cells in groups for cell in cells},
        },
        [
            "virtual time; step costs are computed from bandwidth and arithmetic, but measured for 'cpu' and in files",
            "spread: relative standard error of the mean tokens per second over the repeats, in percent",
            "EdgeDraft over: ratio of tokens per second, requests and drafts being the same",
        ],
        [_rates(groups, rows), _costs(groups, rows, effort.prices)],
        by="cell",
    )


def selected_systems(settings: BenchSettings) -> list[str]:
    """The names of the settings' systems (TITLES). Raises ValueError for an unknown one."""
    if unknown := set(settings.systems) - set(TITLES):
        raise ValueError(f"no system {', '.join(unknown)}; there is: {', '.join(TITLES)}")
    return settings.systems or list(TITLES)


def _rates(groups: Sequence[list[Cell]], rows: Sequence[dict[str, Any]]) -> Result:
    """A row per cell and a column per system; then EdgeDraft over the baselines, and the limit of offloading."""
    found = {(row["cell"], row["system"]): row for row in rows}
    titles = [title for title in TITLES.values() if any(row["system"] == title for row in rows)]
    table: list[dict[str, Any]] = []
    for cell in (cell for cells in groups for cell in cells):
        line = _labels(cell) | {title: found[cell.name, title]["tokens_per_s"] for title in titles}
        line |= {f"over_{title}": found[cell.name, title]["EdgeDraft_over"] for title in titles if title in OVER}
        speculation = found.get((cell.name, TITLES["best_speculation"]))
        table.append(line | {"limit": speculation and speculation["limit"]})
    return Result("tokens per second of the server, by cell", table, {}, {}, [LIMIT_NOTE])


def _costs(groups: Sequence[list[Cell]], rows: Sequence[dict[str, Any]], prices: Prices) -> Result:
    """Dollars per million tokens: a row per cell and way to pay for devices, a column per system."""
    found = {(row["cell"], row["system"]): row for row in rows}
    titles = [title for title in SYSTEMS.values() if any(row["system"] == title for row in rows)]
    table = [
        _labels(cell) | {"devices": paid} | {title: found[cell.name, title][column] for title in titles}
        for cell in (cell for cells in groups for cell in cells)
        for column, paid in PAID.items()
    ]
    note = (
        f"${prices.server_hour:g} per hour of the server, ${prices.edge_hour:g} of a device, {prices.edge_watts:g} W "
        f"while drafting at ${prices.kwh:g} per kWh"
    )
    return Result("dollars per million tokens", table, {}, {}, [note])


def _labels(cell: Cell) -> dict[str, Any]:
    return {
        "steps": cell.load.steps_title,
        "acceptance": cell.load.acceptance,
        "round_trip_ms": cell.round_trip,
        "draft_ms": cell.draft_ms,
        "streams": cell.load.streams,
    }


def _ratios(groups: Sequence[list[Cell]], rows: Sequence[dict[str, Any]]) -> dict[str, dict[Cell, float]]:
    """EdgeDraft over each other system, by that system's name and cell."""
    cells = {cell.name: cell for group in groups for cell in group}
    names = {title: name for name, title in TITLES.items()}
    ratios: dict[str, dict[Cell, float]] = {}
    for row in rows:
        if (over := row["EdgeDraft_over"]) is not None:
            ratios.setdefault(names[row["system"]], {})[cells[row["cell"]]] = over
    return ratios


def measure_cells(cells: Sequence[Cell], systems: Sequence[str], effort: Effort) -> list[dict[str, Any]]:
    """The rows of these cells. Systems without devices are measured once for cells of the same load."""
    rows: list[dict[str, Any]] = []
    for cell in cells:
        found = {name: MEASURE[name](cell, effort) for name in TITLES if name in systems}
        rows += [_row(cell, name, found[name], found.get(EDGEDRAFT)) for name in found]
    return rows


def _datacenter_only(cell: Cell, effort: Effort) -> Summaries:
    return _decoding(cell.load, effort)


@lru_cache(maxsize=64)
def _decoding(load: ServerLoad, effort: Effort) -> Summaries:
    def make(seed: int) -> System:
        setting = Setting(load, seed)
        return DatacenterOnly(Clock(), setting.target, setting.costs.steps)

    return run_repeats(load, make, effort, devices=0)


def _best_speculation(cell: Cell, effort: Effort) -> Summaries:
    """With the best plan, or without speculation where that is faster: under load nobody would keep it on."""
    found = _speculation(cell.load, _speculation_plans(cell.load)[0], effort), _decoding(cell.load, effort)
    return max(found, key=lambda runs: sum(one["tokens_per_s"] for one in runs))


def _model_speculation(cell: Cell, effort: Effort) -> Summaries:
    return _speculation(cell.load, _speculation_plans(cell.load)[1], effort)


@lru_cache(maxsize=64)
def _speculation_plans(load: ServerLoad) -> tuple[SpeculationPlan, SpeculationPlan]:
    """The best one, and the best one with the draft model."""
    setting = Setting(load, 0)
    world, costs, trial = setting.world, setting.costs, plan_load(load.streams)
    drafts = MODEL, LOOKUP  # prompt lookup finds nothing in random texts: it stands for no speculation
    return tune_speculation(setting.target, costs.steps, costs.forwards, world.oracle, world.chats, trial, drafts)


@lru_cache(maxsize=64)
def _speculation(load: ServerLoad, plan: SpeculationPlan, effort: Effort) -> Summaries:
    def make(seed: int) -> System:
        setting = Setting(load, seed)
        costs, oracle = setting.costs, setting.world.oracle
        return DatacenterSpeculation(Clock(), setting.target, costs.steps, costs.forwards, oracle, plan)

    return run_repeats(load, make, effort, devices=0, plan=plan)


def _rounds(cell: Cell, effort: Effort) -> Summaries:
    load, first = cell.load, Setting(cell.load, 0)
    steps, trial = first.costs.steps, plan_load(load.streams)
    plan = tune_rounds(first.target, steps, first.edge(cell), first.world.chats, trial, effort.round_nodes)

    def make(seed: int) -> System:
        setting = Setting(load, seed)
        return DraftRounds(Clock(), setting.target, steps, setting.edge(cell), plan, seed)

    return run_repeats(load, make, effort, load.streams, plan)


def _edgedraft(cell: Cell, effort: Effort) -> Summaries:
    return run_repeats(cell.load, lambda seed: edgedraft_system(cell, seed), effort, cell.load.streams)


def edgedraft_system(cell: Cell, seed: int) -> System:
    """EdgeDraft with the verifier's own scheduler."""
    setting = Setting(cell.load, seed)
    return EdgeDraft(Clock(), setting.target, setting.costs.steps, setting.edge(cell), seed)


def _best_static(cell: Cell, effort: Effort) -> Summaries:
    policy = best_static_policy(cell)
    return run_repeats(
        cell.load, lambda seed: static_system(cell, policy, seed), effort, cell.load.streams, plan=policy
    )


def _ideal(cell: Cell, effort: Effort) -> Summaries:
    return ideal(cell.load, effort)


TITLES = SYSTEMS | {"best_static": "best static rule", "ideal": "ideal drafts"}
MEASURE: dict[str, Callable[[Cell, Effort], Summaries]] = {
    "datacenter_only": _datacenter_only,
    "best_speculation": _best_speculation,
    "model_speculation": _model_speculation,
    "rounds": _rounds,
    EDGEDRAFT: _edgedraft,
    "best_static": _best_static,
    "ideal": _ideal,
}


def _row(cell: Cell, name: str, found: Summaries, edgedraft: Summaries | None) -> dict[str, Any]:
    rates = [one["tokens_per_s"] for one in found]
    spread = 100 * stdev(rates) / len(rates) ** 0.5 / mean(rates) if len(rates) > 1 else None
    over = None
    if edgedraft and name != EDGEDRAFT:
        over = mean(one["tokens_per_s"] for one in edgedraft) / mean(rates)
    columns = mean_columns(found, COLUMNS)
    return {
        "cell": cell.name,
        "system": TITLES[name],
        **columns,
        "spread": spread,
        "EdgeDraft_over": over,
        "plan": found[0]["plan"],
    }
