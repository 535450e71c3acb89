"""`bench seed`: the ways to serve side by side at growing numbers of streams, and what desktops and links change.

The main table's server does the real work. The parts after it are played back with the cost curves measured in the same
run, or computed for the machines of SpecEdge's paper: each title says which.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.seed.bench import (
    DEVICE,
    LEARNING,
    LINK,
    NAMES,
    OTHERS,
    WARM,
    Bench,
    best_plans,
    figures,
    means,
    prepare,
    system,
)
from loadtest.seed.best import Plans
from loadtest.seed.fleet import Load, Window, run, tokens_for, warm_for
from loadtest.seed.live import live
from loadtest.seed.parts import devices, latency, paper
from loadtest.seed.plots import draw
from loadtest.seed.profiles import DEVICES
from loadtest.seed.statistics import Ratio, ratio
from loadtest.settings import BenchSettings

SESSIONS = (1, 4, 16, 64, 256)
WARM_SESSIONS = (1,)
ARRIVALS = (0.7,)  # of what datacenter-only decoding serves at most


@dataclass(frozen=True)
class Cell:
    """Where systems are compared: so many streams always, or arrivals as a share of what (a) can serve."""

    heat: float
    sessions: int
    arrivals: float = 0.0

    @property
    def name(self) -> str:
        streams = "1 stream" if self.sessions == 1 else f"{self.sessions} streams"
        load = f"{self.arrivals:.0%} arrivals" if self.arrivals else streams
        return load if self.heat == 0 else f"{load} at {self.heat}"


def seed(settings: BenchSettings) -> Result:
    """Takes half an hour on one quiet core. With the engine vLLM it is vllm.py's."""
    if "vllm" in settings.engines:
        from loadtest.seed.vllm import vllm

        return vllm(settings)
    load_before = os.getloadavg()[0]
    bench = prepare(settings)
    beside_live = live(bench, settings)
    cells = [*(Cell(0.0, n) for n in SESSIONS), *(Cell(WARM, n) for n in WARM_SESSIONS)]
    plans = {cell: _plans(bench, cell) for cell in cells}
    bench.keep()
    windows = _closed_loop(bench, cells, plans, settings.repeats)
    busiest = max(mean(w.tokens / w.seconds for w in windows[Cell(0.0, n), "a"]) for n in SESSIONS)
    open_cells = [Cell(0.0, 0, share) for share in ARRIVALS]
    plans |= {cell: plans[Cell(0.0, 4)] for cell in open_cells}
    windows |= _open_loop(bench, open_cells, plans, busiest, settings.repeats)
    cells += open_cells
    ratios = _ratios(bench, cells, windows)
    parts = [
        _kinds(windows[Cell(0.0, 1), "d"]),
        latency(bench),
        devices(bench),
        paper(bench),
        beside_live,
    ]
    result = Result(
        f"ways to serve, {settings.dtype}, one core; desktops: {DEVICE.name}, {1e3 * LINK.trip:.0f} ms away",
        [_row(bench, cell, name, windows[cell, name]) for cell in cells for name in NAMES],
        {name: found.value for name, found in ratios.items()},
        {
            "model": DEMO_MODEL,
            "draft": bench.drafts.description,
            "dtype": settings.dtype,
            "repeats": settings.repeats,
            "ridge_rows": bench.ridge,
            "step_ms": {n: 1e3 * bench.steps.seconds(n) for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)},
            "look_ms_on_the_server": {n: 1e3 * bench.looks.seconds(n) for n in (1, 4, 16, 64)},
            "intervals": {name: (found.low, found.high) for name, found in ratios.items()},
            "plans": {cell.name: str(plans[cell]) for cell in cells},
            "prices": {"server_hour": bench.prices.server_hour, "edge_hour": bench.prices.edge_hour},
            "devices": {device.name: device.source for device in DEVICES.values()},
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        [
            f"a step is bound by arithmetic from about {bench.ridge} rows on (the ridge)",
            "every token was held to the target's own text; ratios are geometric means, with intervals in the JSON",
            "$ are per million tokens with every desktop rented while it has a stream; 'used': while it drafts",
        ],
        parts,
        by="load",
    )
    if settings.plots:
        draw(result, settings.plots)
    return result


def _plans(bench: Bench, cell: Cell) -> Plans:
    load = Load(cell.sessions, tokens=max(300, 2 * cell.sessions), warm=warm_for(cell.sessions))
    target, asked = bench.played(cell.heat), bench.chats[cell.heat]
    with progress(f"the best of (b), (m) and (c) for {cell.name}"):
        return best_plans(bench, target, asked, load, bench.steps, bench.looks, (DEVICE, LINK))


def _closed_loop(
    bench: Bench, cells: Sequence[Cell], plans: Mapping[Cell, Plans], repeats: int
) -> dict[tuple[Cell, str], list[Window]]:
    """Systems take turns at each load; a repeat is the same requests for all of them."""
    kept = {
        (heat, name): system(bench, name, bench.target, bench.steps, (DEVICE, LINK), plans[Cell(heat, 1)])
        for heat in (0.0, WARM)
        for name in LEARNING
    }
    windows: dict[tuple[Cell, str], list[Window]] = {(cell, name): [] for cell in cells for name in NAMES}
    with progress("serving", len(windows) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for cell in cells:
                load = Load(cell.sessions, tokens=tokens_for(cell.sessions), warm=warm_for(cell.sessions))
                for name in NAMES:
                    served = kept.get((cell.heat, name)) or system(
                        bench, name, bench.target, bench.steps, (DEVICE, LINK), plans[cell]
                    )
                    windows[cell, name].append(run(served, bench.chats[cell.heat], load, repeat))
                    advance(note=f"({name}), {cell.name}")
    return windows


def _open_loop(
    bench: Bench, cells: Sequence[Cell], plans: Mapping[Cell, Plans], busiest: float, repeats: int
) -> dict[tuple[Cell, str], list[Window]]:
    """The same Poisson arrivals for all."""
    asked = bench.chats[0.0]
    length = mean(len(chat.text) for chat in asked)
    windows: dict[tuple[Cell, str], list[Window]] = {(cell, name): [] for cell in cells for name in NAMES}
    with progress("arriving", len(windows) * repeats, "runs") as advance:
        for repeat in range(repeats):
            for cell in cells:
                load = Load(rate=cell.arrivals * busiest / length, tokens=400, warm=100)
                for name in NAMES:
                    served = system(bench, name, bench.target, bench.steps, (DEVICE, LINK), plans[cell])
                    windows[cell, name].append(run(served, asked, load, repeat))
                    advance(note=f"({name}), {cell.name}")
    return windows


def _row(bench: Bench, cell: Cell, name: str, windows: Sequence[Window]) -> dict[str, Any]:
    every = [figures(window, name, cell.sessions, bench.prices) for window in windows]
    row: dict[str, Any] = {
        "way": NAMES[name],
        "load": cell.name,
        "of_ridge": cell.sessions / bench.ridge if cell.sessions else None,
    } | means(every, [*every[0]])
    if not cell.sessions:  # what comes is the same for all, and how many desktops there are is not a figure
        row["$_per_1M"] = row["$_per_1M_used"] = row["edge_share"] = None
    return row


def _ratios(
    bench: Bench, cells: Sequence[Cell], windows: Mapping[tuple[Cell, str], Sequence[Window]]
) -> dict[str, Ratio]:
    ratios: dict[str, Ratio] = {}
    columns = {"throughput": "tokens_per_s", "cost": "$_per_1M", "cost_used": "$_per_1M_used", "gap": "gap_ms"}
    for cell in cells:
        found = {
            name: [figures(window, name, cell.sessions, bench.prices) for window in windows[cell, name]]
            for name in NAMES
        }
        for title, column in columns.items():
            if cell.arrivals and title != "gap":
                continue
            for other in OTHERS:
                ours = [each[column] for each in found["d"]]
                theirs = [each[column] for each in found[other]]
                ratios[f"{title}_d_over_{other},_{cell.name}"] = ratio(ours, theirs)
    return ratios


def _kinds(windows: Sequence[Window]) -> Result:
    """How much of each kind of work is guessed right, one stream at a time."""
    total: dict[str, tuple[int, int]] = {}
    for window in windows:
        for kind, (tokens, verifies) in window.kinds.items():
            said, checked = total.get(kind, (0, 0))
            total[kind] = said + tokens, checked + verifies
    rows = [
        {"kind": kind, "tokens": tokens, "tokens_per_verify": tokens / verifies}
        for kind, (tokens, verifies) in sorted(total.items())
    ]
    return Result("EdgeDraft's tokens per verify by kind of work, one stream", rows, {}, {})
