"""`bench schedule`: the goodput selection of draft nodes against fixed depths and no drafting, at three loads.

Scheduler, engine and target are real; agents replay recorded draft trees (simulator/systems/traced_agents.py). Time is
virtual: a step takes the CPU seconds of engine and scheduler, so other load on the machine does not count. A text that
differs from the recorded one ends the run: speed is compared on equal work only.

A fixed depth verifies the first k nodes of the most probable path, whatever their cost and acceptance probability.
Everything else (waiting for drafts, prompts, windows) is the same on all sides, which take turns load by load.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from edgedraft.local.demo_model import DEMO_MODEL
from edgedraft.observability.progress import progress
from edgedraft.tree import DraftSlice
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, run
from loadtest.simulator.measurement import Measurement
from loadtest.simulator.recorded_chats import RecordedChat, from_trace
from loadtest.simulator.systems.traced_agents import (
    ABSENT,
    ACCURATE,
    LINK_SECONDS,
    ROUND_SECONDS,
    WRONG,
    TracedAgents,
)
from loadtest.simulator.target import Target, live_target, measure_steps
from loadtest.workloads.trace import TracedTree, load_trace
from verifier.engine.target import load_target
from verifier.scheduling.policy import SelectDraftNodes, select_for_goodput
from verifier.scheduling.step_costs import StepCosts
from verifier.settings import VerifierSettings

DEPTHS = (1, 2, 4, 8)
REPEATS = 2
CONCURRENCY = 16
ARRIVALS_PER_SECOND = 1 / 0.15
TOKENS = 1200  # measured under heavy and mixed load
LIGHT_CHATS = 4
GOODPUT, NONE = "goodput", "none"
KV_TOKENS = 16384


@dataclass(frozen=True)
class AgentLoad:
    """A load with each chat's agent (ACCURATE, WRONG or ABSENT) by chat number."""

    name: str
    load: Load
    chats: Sequence[RecordedChat]
    agents: Mapping[int, str]


@dataclass(frozen=True)
class Run:
    """One side under one load."""

    measured: Measurement
    nodes_per_step: Counter[int]  # steps by draft nodes, rounded up to a power of two, warm-up included


def schedule(settings: BenchSettings) -> Result:
    """Tokens per second with goodput, depths 1, 2, 4, 8 and no drafts; under light, heavy and mixed load."""
    model, card = load_target(
        VerifierSettings.model_validate(
            {"model": DEMO_MODEL, "device": "cpu", "dtype": settings.dtype, "threads": settings.threads}
            | {"kv_tokens": KV_TOKENS}
        )
    )
    sides: dict[str, SelectDraftNodes | None] = {
        GOODPUT: select_for_goodput,
        **{f"depth {k}": fixed_depth(k) for k in DEPTHS},
        NONE: None,
    }
    traced = load_trace()
    chats, trees = from_trace(traced), {number: chat.trees for number, chat in enumerate(traced)}
    target = live_target(model, card)
    steps = measure_steps(target)
    loads = make_loads(chats)
    load_before = os.getloadavg()[0]
    runs: dict[tuple[str, str], list[Run]] = {(side, load.name): [] for side in sides for load in loads}
    with progress("simulating", (REPEATS + 1) * len(runs), "runs") as advance:
        for repeat in range(REPEATS + 1):
            for load in loads:
                for side in random.Random(repeat).sample(list(sides), len(sides)):
                    found = run_load(target, steps, load, trees, sides[side], repeat)
                    if repeat:  # the first one only warms up
                        runs[side, load.name].append(found)
                    advance(note=f"{side}, {load.name}")
    return Result(
        f"committed tokens per second, {settings.dtype}, threads: {settings.threads}",
        [_row(side, load.name, runs[side, load.name]) for load in loads for side in sides],
        _ratios(runs, [load.name for load in loads], list(sides)),
        {
            "model": DEMO_MODEL,
            "dtype": settings.dtype,
            "threads": settings.threads,
            "repeats": REPEATS,
            "link_seconds": LINK_SECONDS,
            "round_seconds": ROUND_SECONDS,
            "machine_load_before": load_before,
            "machine_load_after": os.getloadavg()[0],
        },
        ["rates are medians per second of virtual time, waiting included; per CPU second they leave waiting out"],
    )


def run_load(
    target: Target,
    steps: StepCosts,
    load: AgentLoad,
    trees: Mapping[int, Sequence[TracedTree]],
    select: SelectDraftNodes | None,
    seed: int,
) -> Run:
    """Runs one side; `select` None means no agents. Raises AssertionError if a text differs."""
    agents = load.agents if select else dict.fromkeys(load.agents, ABSENT)
    system = TracedAgents(Clock(), target, steps, select or select_for_goodput, agents, trees)
    measured = run(system, load.chats, load.load, seed)
    sizes: Counter[int] = Counter()
    for nodes, count in system.verifier.nodes_per_step.items():
        sizes[_power_of_two(nodes)] += count
    return Run(measured, sizes)


def make_loads(chats: Sequence[RecordedChat]) -> list[AgentLoad]:
    """Light: one stream at a time. Heavy: a closed loop. Mixed: Poisson arrivals, some agents wrong or absent."""
    rng = random.Random(4)
    accurate = {chat.number: ACCURATE for chat in chats}
    mixed = {chat.number: rng.choice((ACCURATE, ACCURATE, WRONG, ABSENT)) for chat in chats}
    busy = Load(CONCURRENCY, tokens=TOKENS, warmup_tokens=TOKENS // 4)
    arrivals = replace(busy, concurrency=0, arrival_rate=ARRIVALS_PER_SECOND, max_concurrency=CONCURRENCY)
    return [
        AgentLoad("light", Load(1, once=True), chats[:LIGHT_CHATS], accurate),
        AgentLoad("heavy", busy, chats, accurate),
        AgentLoad("mixed", arrivals, chats, mixed),
    ]


def fixed_depth(depth: int) -> SelectDraftNodes:
    """Selects the first `depth` nodes of each draft's most probable path."""

    def select(
        drafts: Mapping[int, DraftSlice],
        probabilities: Mapping[int, Sequence[float]],
        rows: int,
        tokens: float,
        max_nodes: int,
        seconds: Callable[[int], float],
        rate: float = 0.0,
    ) -> dict[int, list[int]]:
        selected: dict[int, list[int]] = {}
        for key, draft in drafts.items():
            path: list[int] = []
            while len(path) < depth:
                end = path[-1] if path else -1
                children = [i for i, parent in enumerate(draft.parents) if parent == end]
                if not children:
                    break
                path.append(min(children, key=lambda i: draft.costs[i]))
            selected[key] = path
        return selected

    return select


def _power_of_two(nodes: int) -> int:
    return 1 << (nodes - 1).bit_length() if nodes else 0


def _rate(runs: Sequence[Run]) -> float:
    return median(run.measured.tokens_per_second for run in runs)


def _row(side: str, load: str, runs: Sequence[Run]) -> dict[str, Any]:
    last = runs[-1].measured
    meters = last.meters
    rates = [run.measured.tokens_per_second for run in runs]
    return {
        "load": load,
        "selection": side,
        "tokens_per_s": _rate(runs),
        "spread": f"±{(max(rates) - min(rates)) / 2 / _rate(runs):.0%}",
        "tokens_per_CPU_s": median(run.measured.tokens / run.measured.meters.server_seconds for run in runs),
        "tokens_per_step": last.tokens / meters.steps,
        "nodes_per_step": meters.nodes / meters.steps,
        "accepted": meters.accepted / meters.nodes if meters.nodes else None,
        "steps_by_nodes": " ".join(f"{size}:{count}" for size, count in sorted(runs[-1].nodes_per_step.items())),
    }


def _ratios(
    runs: Mapping[tuple[str, str], Sequence[Run]], loads: Sequence[str], sides: Sequence[str]
) -> dict[str, float]:
    ratios: dict[str, float] = {}
    others = [side for side in sides if side != GOODPUT]
    for load in loads:
        ours = _rate(runs[GOODPUT, load])
        ratios[f"goodput_over_best_other_at_{load}_load"] = ours / max(_rate(runs[side, load]) for side in others)
        for side in others:
            ratios[f"goodput_over_{side.replace(' ', '_')}_at_{load}_load"] = ours / _rate(runs[side, load])
    return ratios
