"""What desktops, links and machines change: one thing at a time, on the engine played back.

The server's steps take what was measured in the same run, or, for the machines of SpecEdge's paper, what their memory
and arithmetic allow; the drafts, and so every acceptance, are the demo pair's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.seed.bench import DEVICE, LEARNING, LINK, NAMES, OTHERS, Bench, best_plans, figures, system
from loadtest.seed.fleet import Load, run, tokens_for, warm_for
from loadtest.seed.profiles import DEVICES, Device, Link
from verifier.scheduling.step_costs import StepCosts

TRIPS = (0.0, 0.015, 0.03, 0.05, 0.1)
SEEDS = (0, 1, 2)
PAPER_SESSIONS = (1, 16, 256)
# An A100-80: 2.04 TB/s and 312 Tflop/s in bfloat16, of which four fifths and half are had.
BANDWIDTH, FLOPS = 0.8 * 2.04e12, 0.5 * 312e12
LAUNCH = 0.0015  # seconds: a forward of a small model is no shorter, even from a CUDA graph
PAIRS = {"32B, 1.7B": (32.8e9, 1.7e9)}  # Qwen3: parameters of target and draft
SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)


def latency(bench: Bench) -> Result:
    """Time between tokens against the round trip, one stream."""
    rows: list[dict[str, Any]] = []
    with progress("round trips", len(TRIPS), "trips") as advance:
        for trip in TRIPS:
            rows += _rows(bench, {"round_trip_ms": round(1e3 * trip)}, DEVICE, LINK.with_trip(trip))
            advance()
    return Result(
        f"one stream against the round trip, {DEVICE.name}, played back with the measured costs",
        rows,
        _gaps(rows, "round_trip_ms", "ms"),
        {},
        by="round_trip_ms",
    )


def devices(bench: Bench) -> Result:
    """What the desktop is, one stream."""
    rows: list[dict[str, Any]] = []
    with progress("devices", len(DEVICES), "devices") as advance:
        for device in DEVICES.values():
            rows += _rows(bench, {"device": device.name}, device, LINK)
            advance()
    return Result(
        f"one stream by the desktop's device, {1e3 * LINK.trip:.0f} ms away, played back with the measured costs",
        rows,
        _gaps(rows, "device", ""),
        {},
        by="device",
    )


def paper(bench: Bench) -> Result:
    """The paper's machines, computed."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with progress("the paper's machines", len(PAIRS) * len(PAPER_SESSIONS), "loads") as advance:
        for pair, (target, draft) in PAIRS.items():
            steps, looks = curve(target), curve(draft)
            for sessions in PAPER_SESSIONS:
                mark = {"pair": pair, "streams": sessions, "of_ridge": sessions / _ridge(steps)}
                found = _rows(bench, mark, DEVICE, LINK, sessions, steps, looks)
                rows += found
                rates = {row["way"]: row["tokens_per_s"] for row in found}
                for other in OTHERS:
                    ratios[f"throughput_d_over_{other},_{pair},_{sessions}_streams"] = (
                        rates[NAMES["d"]] / rates[NAMES[other]]
                    )
                advance()
    return Result(
        "an A100 by its bandwidth and arithmetic: computed, not measured, and with the demo pair's acceptance",
        rows,
        ratios,
        {},
        by="streams",
    )


def _rows(
    bench: Bench,
    mark: dict[str, Any],
    device: Device,
    link: Link,
    sessions: int = 1,
    steps: StepCosts | None = None,
    looks: StepCosts | None = None,
) -> list[dict[str, Any]]:
    """All ways, the others at their best there."""
    steps, looks = steps or bench.steps, looks or bench.looks
    target, asked = bench.played(0.0, steps.seconds), bench.chats[0.0]
    trial = Load(sessions, tokens=max(300, 2 * sessions), warm=warm_for(sessions))
    plans = best_plans(bench, target, asked, trial, steps, looks, (device, link))
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        load = Load(sessions, tokens=tokens_for(sessions), warm=warm_for(sessions))
        every: list[dict[str, Any]] = []
        served = system(bench, name, target, steps, (device, link), plans, looks)
        for seed in SEEDS:
            if name not in LEARNING:
                served = system(bench, name, target, steps, (device, link), plans, looks)
            every.append(figures(run(served, asked, load, seed), name, sessions, bench.prices))
        columns = ("tokens_per_s", "tokens_per_busy_s", "$_per_1M", "gap_ms", "gap_p99_ms", "tokens_per_verify")
        rows.append({"way": NAMES[name], **mark, **{c: sum(each[c] for each in every) / len(every) for c in columns}})
    return rows


def _gaps(rows: Sequence[dict[str, Any]], column: str, unit: str) -> dict[str, float]:
    gaps = {(row[column], row["way"]): row["gap_ms"] for row in rows}
    return {
        f"gap_d_over_{other},_{place}{' ' if unit else ''}{unit}": gaps[place, NAMES["d"]] / gaps[place, NAMES[other]]
        for place in dict.fromkeys(row[column] for row in rows)
        for other in OTHERS
    }


def curve(parameters: float) -> StepCosts:
    """Steps of a model in bfloat16: they read its weights once, and compute two operations a weight and row."""
    step: Callable[[int], float] = lambda rows: max(  # noqa: E731
        LAUNCH, 2 * parameters / BANDWIDTH, 2 * parameters * rows / FLOPS
    )
    costs = StepCosts()
    for rows in SIZES:
        costs.record(rows, step(rows))
    return costs


def _ridge(steps: StepCosts) -> int:
    return next(n for n in range(1, 4096) if steps.seconds(n) >= 1.01 * steps.seconds(1))
