"""How results depend on round-trip time, device and hardware: one variable at a time, with a recorded target.

Steps take what was measured in the same run or, for the hardware of SpecEdge's paper, what memory and arithmetic allow.
Drafts, and therefore acceptance, are the demo pair's in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.simulator.load import Load, run, tokens_for, trial_load, warmup_for
from loadtest.simulator.profiles import DEVICES, DeviceProfile, EdgeProfile, LinkProfile, a100_steps
from loadtest.specedge.preparation import DEVICE, GREEDY, LINK, Experiment
from loadtest.specedge.systems import (
    ADAPTIVE,
    BASELINES,
    EDGEDRAFT,
    SYSTEMS,
    WITH_DEVICES,
    Costs,
    make_system,
    mean_columns,
    summarize,
    tune_baselines,
)
from verifier.scheduling.step_costs import StepCosts

RTTS = (0.0, 0.015, 0.03, 0.05, 0.1)  # seconds
SEEDS = (0, 1, 2)
PAPER_CONCURRENCIES = (1, 16, 256)
PAIRS = {"32B, 1.7B": (32.8e9, 1.7e9)}  # Qwen3: parameters of target and draft
COLUMNS = ("tokens_per_s", "tokens_per_busy_s", "$_per_1M", "inter_token_ms", "inter_token_p99_ms", "tokens_per_verify")


def by_rtt(experiment: Experiment) -> Result:
    """Inter-token latency against the round-trip time, one stream."""
    rows: list[dict[str, Any]] = []
    with progress("round-trip times", len(RTTS), "values") as advance:
        for rtt in RTTS:
            rows += _rows(experiment, {"rtt_ms": round(1e3 * rtt)}, DEVICE, LINK.with_rtt(rtt))
            advance()
    return Result(
        f"one stream by round-trip time, {DEVICE.name}, recorded target with the measured costs",
        rows,
        _latency_ratios(rows, "rtt_ms", " ms"),
        {},
        by="rtt_ms",
    )


def by_device(experiment: Experiment) -> Result:
    """Inter-token latency by the agent's device, one stream."""
    rows: list[dict[str, Any]] = []
    with progress("devices", len(DEVICES), "devices") as advance:
        for device in DEVICES.values():
            rows += _rows(experiment, {"device": device.name}, device, LINK)
            advance()
    return Result(
        f"one stream by device, {1e3 * LINK.rtt:.0f} ms away, recorded target with the measured costs",
        rows,
        _latency_ratios(rows, "device", ""),
        {},
        by="device",
    )


def on_paper_hardware(experiment: Experiment) -> Result:
    """The hardware of SpecEdge's paper, computed."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    with progress("the paper's hardware", len(PAIRS) * len(PAPER_CONCURRENCIES), "loads") as advance:
        for pair, (target, draft) in PAIRS.items():
            costs = Costs(a100_steps(target), a100_steps(draft))
            for concurrency in PAPER_CONCURRENCIES:
                labels = {"pair": pair, "streams": concurrency, "of_ridge": concurrency / _ridge(costs.steps)}
                found = _rows(experiment, labels, DEVICE, LINK, concurrency, costs)
                rows += found
                rates = {row["system"]: row["tokens_per_s"] for row in found}
                for other in BASELINES:
                    ratios[f"throughput_{EDGEDRAFT}_over_{other},_{pair},_{concurrency}_streams"] = (
                        rates[SYSTEMS[EDGEDRAFT]] / rates[SYSTEMS[other]]
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
    experiment: Experiment,
    labels: dict[str, Any],
    device: DeviceProfile,
    link: LinkProfile,
    concurrency: int = 1,
    costs: Costs | None = None,
) -> list[dict[str, Any]]:
    """A row per system, the baselines with their best plans for this load."""
    costs = costs or experiment.costs
    edge = EdgeProfile(device, link, experiment.draft_model)
    target, chats = experiment.recorded_target(GREEDY, costs.steps.seconds), experiment.chats[GREEDY]
    plans = tune_baselines(target, costs, edge, chats, trial_load(concurrency), experiment.round_nodes)
    load = Load(concurrency, tokens=tokens_for(concurrency), warmup_tokens=warmup_for(concurrency))
    rows: list[dict[str, Any]] = []
    for name in SYSTEMS:
        devices = concurrency if name in WITH_DEVICES else 0
        summaries: list[dict[str, Any]] = []
        system = make_system(name, target, costs, edge, plans)
        for seed in SEEDS:
            if name not in ADAPTIVE:
                system = make_system(name, target, costs, edge, plans)
            summaries.append(summarize(run(system, chats, load, seed), experiment.prices, devices))
        rows.append({"system": SYSTEMS[name], **labels, **mean_columns(summaries, COLUMNS)})
    return rows


def _latency_ratios(rows: Sequence[dict[str, Any]], column: str, unit: str) -> dict[str, float]:
    latencies = {(row[column], row["system"]): row["inter_token_ms"] for row in rows}
    return {
        f"inter_token_{EDGEDRAFT}_over_{other},_{value}{unit}": latencies[value, SYSTEMS[EDGEDRAFT]]
        / latencies[value, SYSTEMS[other]]
        for value in dict.fromkeys(row[column] for row in rows)
        for other in BASELINES
    }


def _ridge(steps: StepCosts) -> int:
    return next(n for n in range(1, 4096) if steps.seconds(n) >= 1.01 * steps.seconds(1))
