"""The main comparison of `bench specedge`: systems at growing concurrency, on an engine that does the real work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.load import Load, run, tokens_for, trial_load, warmup_for
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.profiles import DEVICES
from loadtest.specedge.live_agent import compare_with_live_agent
from loadtest.specedge.plots import draw
from loadtest.specedge.preparation import DEVICE, GREEDY, LINK, SAMPLED, Experiment, prepare
from loadtest.specedge.sensitivity import by_device, by_rtt, on_paper_hardware
from loadtest.specedge.systems import (
    ADAPTIVE,
    BASELINES,
    EDGEDRAFT,
    SYSTEMS,
    WITH_DEVICES,
    make_system,
    mean_columns,
    summarize,
    tune_baselines,
)
from loadtest.specedge.tuning import TunedPlans
from loadtest.statistics import Ratio, ratio

CONCURRENCIES = (1, 4, 16, 64, 256)
SAMPLED_CONCURRENCIES = (1,)
ARRIVAL_SHARES = (0.7,)  # of the most that datacenter-only decoding serves
OPEN_LOOP_TOKENS, OPEN_LOOP_WARMUP = 400, 100
RATIO_COLUMNS = {
    "throughput": "tokens_per_s",
    "cost": "$_per_1M",
    "cost_used": "$_per_1M_used",
    "inter_token": "inter_token_ms",
}


@dataclass(frozen=True)
class Cell:
    """One load: a closed loop of `concurrency` streams, or arrivals as a share of datacenter-only's throughput."""

    temperature: float
    concurrency: int
    arrival_share: float = 0.0

    @property
    def name(self) -> str:
        streams = "1 stream" if self.concurrency == 1 else f"{self.concurrency} streams"
        load = f"{self.arrival_share:.0%} arrivals" if self.arrival_share else streams
        return load if self.temperature == GREEDY else f"{load} at {self.temperature}"


Runs = Mapping[tuple[Cell, str], Sequence[Measurement]]


def compare_systems(settings: BenchSettings) -> Result:
    """Takes half an hour on one core with nothing else to do."""
    load_before = os.getloadavg()[0]
    experiment = prepare(settings)
    live_agent = compare_with_live_agent(experiment, settings)
    cells = [
        *(Cell(GREEDY, n) for n in CONCURRENCIES),
        *(Cell(SAMPLED, n) for n in SAMPLED_CONCURRENCIES),
    ]
    plans = {cell: _tune(experiment, cell) for cell in cells}
    experiment.save()
    runs = _closed_loop(experiment, cells, plans, settings.repeats)
    most = max(mean(m.tokens_per_second for m in runs[Cell(GREEDY, n), "datacenter_only"]) for n in CONCURRENCIES)
    open_loop = [Cell(GREEDY, 0, share) for share in ARRIVAL_SHARES]
    plans |= {cell: plans[Cell(GREEDY, 4)] for cell in open_loop}
    runs |= _open_loop(experiment, open_loop, plans, most, settings.repeats)
    cells += open_loop
    ratios = _ratios(experiment, cells, runs)
    result = Result(
        f"systems, {settings.dtype}, one core; devices: {DEVICE.name}, {1e3 * LINK.rtt:.0f} ms away",
        [_row(experiment, cell, name, runs[cell, name]) for cell in cells for name in SYSTEMS],
        {name: found.value for name, found in ratios.items()},
        {
            "model": DEMO_MODEL,
            "draft": experiment.draft_model.description,
            "dtype": settings.dtype,
            "repeats": settings.repeats,
            "ridge_rows": experiment.ridge,
            "step_ms": {n: 1e3 * experiment.costs.steps.seconds(n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)},
            "server_draft_forward_ms": {n: 1e3 * experiment.costs.forwards.seconds(n) for n in (1, 4, 16, 64)},
            "intervals": {name: (found.low, found.high) for name, found in ratios.items()},
            "plans": {cell.name: str(plans[cell]) for cell in cells},
            "prices": asdict(experiment.prices),
            "devices": {device.name: device.source for device in DEVICES.values()},
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        [
            f"a step is compute-bound from about {experiment.ridge} rows on (the ridge)",
            "every token was compared with the target's own text; ratios are geometric means, intervals in the JSON",
            "$ are per million tokens with every device rented while it has a stream; 'used': while it drafts;",
            "'owned': the user's own, electricity while it drafts",
        ],
        [
            _by_kind(runs[Cell(GREEDY, 1), EDGEDRAFT]),
            by_rtt(experiment),
            by_device(experiment),
            on_paper_hardware(experiment),
            live_agent,
        ],
        by="load",
    )
    if settings.plots:
        draw(result, settings.plots)
    return result


def _tune(experiment: Experiment, cell: Cell) -> TunedPlans:
    concurrency = cell.concurrency
    load = trial_load(concurrency)
    target, chats = experiment.recorded_target(cell.temperature), experiment.chats[cell.temperature]
    with progress(f"the baselines' best plans for {cell.name}"):
        return tune_baselines(target, experiment.costs, experiment.edge, chats, load, experiment.round_nodes)


def _closed_loop(
    experiment: Experiment, cells: Sequence[Cell], plans: Mapping[Cell, TunedPlans], repeats: int
) -> dict[tuple[Cell, str], list[Measurement]]:
    """Systems take turns at each load; within a repeat all get the same requests."""
    costs, edge = experiment.costs, experiment.edge
    adaptive = {
        (temperature, name): make_system(name, experiment.target, costs, edge, plans[Cell(temperature, 1)])
        for temperature in (GREEDY, SAMPLED)
        for name in ADAPTIVE
    }
    runs: dict[tuple[Cell, str], list[Measurement]] = {(cell, name): [] for cell in cells for name in SYSTEMS}
    with progress("closed loop", len(runs) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for cell in cells:
                n = cell.concurrency
                load = Load(n, tokens=tokens_for(n), warmup_tokens=warmup_for(n))
                for name in SYSTEMS:
                    system = adaptive.get((cell.temperature, name)) or make_system(
                        name, experiment.target, costs, edge, plans[cell]
                    )
                    runs[cell, name].append(run(system, experiment.chats[cell.temperature], load, repeat))
                    advance(note=f"{name}, {cell.name}")
    return runs


def _open_loop(
    experiment: Experiment, cells: Sequence[Cell], plans: Mapping[Cell, TunedPlans], most: float, repeats: int
) -> dict[tuple[Cell, str], list[Measurement]]:
    """The same Poisson arrivals for all systems; `most` is the throughput that shares refer to."""
    chats = experiment.chats[GREEDY]
    length = mean(len(chat.text) for chat in chats)
    runs: dict[tuple[Cell, str], list[Measurement]] = {(cell, name): [] for cell in cells for name in SYSTEMS}
    with progress("open loop", len(runs) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for cell in cells:
                rate = cell.arrival_share * most / length
                load = Load(arrival_rate=rate, tokens=OPEN_LOOP_TOKENS, warmup_tokens=OPEN_LOOP_WARMUP)
                for name in SYSTEMS:
                    system = make_system(name, experiment.target, experiment.costs, experiment.edge, plans[cell])
                    runs[cell, name].append(run(system, chats, load, repeat))
                    advance(note=f"{name}, {cell.name}")
    return runs


def _summaries(experiment: Experiment, cell: Cell, name: str, runs: Sequence[Measurement]) -> list[dict[str, Any]]:
    devices = cell.concurrency if name in WITH_DEVICES else 0
    return [summarize(measured, experiment.prices, devices) for measured in runs]


def _row(experiment: Experiment, cell: Cell, name: str, runs: Sequence[Measurement]) -> dict[str, Any]:
    summaries = _summaries(experiment, cell, name, runs)
    row: dict[str, Any] = {
        "system": SYSTEMS[name],
        "load": cell.name,
        "of_ridge": cell.concurrency / experiment.ridge if cell.concurrency else None,
    } | mean_columns(summaries, [*summaries[0]])
    if not cell.concurrency:  # throughput is what arrives, and the number of devices is not given
        row |= dict.fromkeys(("$_per_1M", "$_per_1M_used", "$_per_1M_owned", "edge_share"))
    return row


def _ratios(experiment: Experiment, cells: Sequence[Cell], runs: Runs) -> dict[str, Ratio]:
    ratios: dict[str, Ratio] = {}
    for cell in cells:
        found = {name: _summaries(experiment, cell, name, runs[cell, name]) for name in SYSTEMS}
        for title, column in RATIO_COLUMNS.items():
            if cell.arrival_share and title != "inter_token":
                continue
            for other in BASELINES:
                ours = [summary[column] for summary in found[EDGEDRAFT]]
                theirs = [summary[column] for summary in found[other]]
                ratios[f"{title}_{EDGEDRAFT}_over_{other},_{cell.name}"] = ratio(ours, theirs)
    return ratios


def _by_kind(runs: Sequence[Measurement]) -> Result:
    """Tokens per verify by kind of prompt, one stream at a time."""
    totals: dict[str, tuple[int, int]] = {}
    for measured in runs:
        for kind, (tokens, verifies) in measured.kinds.items():
            before = totals.get(kind, (0, 0))
            totals[kind] = before[0] + tokens, before[1] + verifies
    rows = [
        {"kind": kind, "tokens": tokens, "tokens_per_verify": tokens / verifies}
        for kind, (tokens, verifies) in sorted(totals.items())
    ]
    return Result("EdgeDraft's tokens per verify by kind of prompt, one stream", rows, {}, {})
