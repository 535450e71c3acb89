"""`bench scale`: measured costs, a validated simulation, one gateway's capacity, and services of all sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.scale import measure as costs_of
from loadtest.scale.measure import Measured, Plan, measure
from loadtest.scale.service_size import ANSWER_TOKENS, Assumptions
from loadtest.scale.sizes import AGENTS, gateway_capacity, simulate_sizes, stream_rates, target_steps
from loadtest.scale.stores import Stores, stores
from loadtest.scale.validation import SMALL_SERVICES, Figures, SmallService, measure_live, simulate
from loadtest.scale.validation import rows as validation_rows
from loadtest.scale.workload import Workload, mean_steps, prepare
from loadtest.settings import BenchSettings
from loadtest.simulator.profiles import DEVICES, LINKS

EDGE = DEVICES["rtx-4090"], LINKS["fibre"]


@dataclass(frozen=True)
class Effort:
    """How long each part takes; smaller ones are for trying out."""

    plan: Plan = field(default_factory=Plan)
    small: tuple[SmallService, ...] = SMALL_SERVICES
    live_seconds: float = 30.0  # per small real service
    tokens: int = 3000  # per small simulated service
    cell_tokens: int = 4000
    agents: tuple[int, ...] = AGENTS
    answer_tokens: int = 100


@dataclass
class _Validation:
    """One small service, with the measured steps of the demo target meanwhile, in milliseconds by rows."""

    small: SmallService
    live: Figures
    simulated: Figures
    step_ms: dict[int, float]


def scale(settings: BenchSettings, effort: Effort | None = None) -> Result:
    """Raises StartError or ValkeyUnavailable when a process does not start."""
    effort = effort or Effort()
    assumptions = Assumptions(settings.active_share, settings.pace)
    loads = [os.getloadavg()[0]]
    workload = prepare(settings.dtype, effort.answer_tokens)
    validations: list[_Validation] = []
    with stores() as shared:
        measured = measure(shared, effort.plan)
        loads.append(os.getloadavg()[0])
        with progress("small services", len(effort.small), "services") as advance:
            for small in effort.small:
                found = _validate(shared, small, workload, measured, settings.dtype, effort)
                validations.append(found)
                loads.append(os.getloadavg()[0])
                advance(note=f"{small}: {found.live.tokens:.0f} tokens/s, simulated {found.simulated.tokens:.0f}")
    workload.save()
    compared = validation_rows([(one.small, one.live, one.simulated) for one in validations])
    capacity = gateway_capacity(workload, measured.costs, EDGE, effort.cell_tokens)
    workload.save()
    rates = stream_rates(capacity[-1])
    return Result(
        "from a hundred agents to a million",
        simulate_sizes(measured, rates, assumptions, effort.agents),
        {f"{row['figure']}, {row['service']}": row["ratio"] for row in compared},
        {
            "dtype": settings.dtype,
            "active_share": settings.active_share,
            "tokens_per_second": settings.pace,
            "answer_tokens": ANSWER_TOKENS,
            "machine_loads": loads,
            "speeds": [one.live.speed for one in validations],
            "device": EDGE[0].name,
            "link": EDGE[1].name,
            "verifier_step_ms": {rows: 1e3 * target_steps().seconds(rows) for rows in (1, 64, 256)},
            "demo_step_ms": [one.step_ms for one in validations],
        },
        [
            f"machine load meanwhile: {', '.join(f'{load:.1f}' for load in loads)}",
            f"share of a core that a verifier got: {', '.join(f'{one.live.speed:.2f}' for one in validations)}",
        ],
        [
            Result("CPU per event", costs_of.rows(measured), {}, {"median_error": measured.error}),
            Result("runs that the costs are fitted to", _runs(measured), {}, {}),
            Result("use of the stores", _store_rows(measured), {}, {}),
            Result("a small service and its simulation", compared, {}, {}),
            Result("one gateway's capacity, simulated token by token", capacity, {}, {}),
        ],
    )


def _validate(
    shared: Stores, small: SmallService, workload: Workload, measured: Measured, dtype: str, effort: Effort
) -> _Validation:
    before = workload.measure_steps()
    live = measure_live(shared, small, workload, EDGE, dtype, effort.live_seconds)
    steps = mean_steps(before, workload.measure_steps())
    simulated = simulate(small, workload, steps, measured.costs, EDGE, live, effort.tokens)
    return _Validation(small, live, simulated, {rows: 1e3 * steps.seconds(rows) for rows in (1, 4, 16, 64)})


def _runs(measured: Measured) -> list[dict[str, Any]]:
    return [
        {
            "run": run.name,
            "gateway_CPU_share": 2 * run.gateway / run.counts.second,
            "fitted": 2 * measured.costs.seconds(run.counts) / run.counts.second,
            "commits_s": 2 * run.counts.commit / run.counts.second,
            "drafts_s": 2 * run.counts.draft / run.counts.second,
        }
        for run in measured.runs
    ]


def _store_rows(measured: Measured) -> list[dict[str, Any]]:
    costs = measured.stores
    usage = {
        "gateway and second": costs.second,
        "request": costs.request,
        "agent and second": costs.agent,
        "attaching agent": costs.attach,
    }
    table = [
        {
            "per": name,
            "Redis_scripts": used.scripts,
            "Redis_CPU_ms": 1e3 * used.redis,
            "DB_transactions": used.transactions,
            "DB_CPU_ms": 1e3 * used.postgres,
            "connections_Redis_DB": "",
        }
        for name, used in usage.items()
    ]
    table[0]["connections_Redis_DB"] = f"{costs.redis_connections:.3g}, {costs.postgres_connections:.3g}"
    return table
