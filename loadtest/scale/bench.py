"""`bench scale`: measured costs, the simulation beside a small real service, one gateway's bounds, and all sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.report import Result
from loadtest.scale import measure as measuring
from loadtest.scale.match import SMALL, Figures, Small, live, simulated
from loadtest.scale.match import rows as matched_rows
from loadtest.scale.measure import Measured, Plan, measure
from loadtest.scale.service import ANSWER, Assumed
from loadtest.scale.sizes import AGENTS, a_stream, cells, sizes, steps
from loadtest.scale.stores import stores
from loadtest.scale.texts import curve_of, prepare
from loadtest.seed.profiles import DEVICES, LINKS
from loadtest.settings import BenchSettings

EDGE = DEVICES["rtx-4090"], LINKS["fibre"]


@dataclass(frozen=True)
class Extent:
    """How long each part takes; smaller ones are for tests."""

    plan: Plan = field(default_factory=Plan)
    small: tuple[Small, ...] = SMALL
    seconds: float = 30.0  # of a small real service
    tokens: int = 3000  # of a simulated one
    cell_tokens: int = 4000
    agents: tuple[int, ...] = AGENTS
    answer: int = 100


def scale(settings: BenchSettings, extent: Extent | None = None) -> Result:
    """Raises StartError or ValkeyUnavailable when a part does not come up."""
    extent = extent or Extent()
    assumed = Assumed(settings.active_share, settings.pace)
    loads = [os.getloadavg()[0]]
    texts = prepare(settings.dtype, extent.answer)
    with stores() as shared:
        measured = measure(shared, extent.plan)
        loads.append(os.getloadavg()[0])
        demo_steps: list[dict[int, float]] = []
        pairs: list[tuple[Small, Figures, Figures]] = []
        with progress("small services", len(extent.small), "services") as advance:
            for small in extent.small:
                before = texts.measured_steps()
                real = live(shared, small, texts, EDGE, settings.dtype, extent.seconds)
                steps_then = curve_of(before, texts.measured_steps())
                found = simulated(small, texts, steps_then, measured.costs, EDGE, real, extent.tokens)
                pairs.append((small, real, found))
                loads.append(os.getloadavg()[0])
                demo_steps.append({rows: 1e3 * steps_then.seconds(rows) for rows in (1, 4, 16, 64)})
                advance(note=f"{small}: {real.tokens:.0f} tokens/s, simulated {found.tokens:.0f}")
    texts.keep()
    matched = matched_rows(pairs)
    bounds = cells(texts, measured.costs, EDGE, extent.cell_tokens)
    texts.keep()
    stream = a_stream(bounds[-1])
    every = sizes(measured, stream, assumed, extent.agents)
    used = {
        "dtype": settings.dtype,
        "active_share": settings.active_share,
        "pace": settings.pace,
        "answer_tokens": ANSWER,
        "machine_loads": loads,
        "speeds": [real.speed for _, real, _ in pairs],
        "device": EDGE[0].name,
        "link": EDGE[1].name,
        "verifier_step_ms": {rows: 1e3 * steps().seconds(rows) for rows in (1, 64, 256)},
        "demo_step_ms": demo_steps,
    }
    return Result(
        "from a hundred agents to a million",
        every,
        {f"{row['figure']}, {row['service']}": row["ratio"] for row in matched},
        used,
        [
            f"machine load meanwhile: {', '.join(f'{load:.1f}' for load in loads)}",
            f"of a core a verifier got, service by service: {', '.join(f'{real.speed:.2f}' for _, real, _ in pairs)}",
        ],
        [
            Result("CPU of one of everything", measuring.rows(measured), {}, {"median_error": measured.error}),
            Result("runs that these are fitted to", _runs(measured), {}, {}),
            Result("what the stores are asked", _asked(measured), {}, {}),
            Result("a small service and its simulation", matched, {}, {}),
            Result("one gateway's bounds, simulated token by token", bounds, {}, {}),
        ],
    )


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


def _asked(measured: Measured) -> list[dict[str, Any]]:
    use = measured.stores
    rows = {
        "gateway and second": use.second,
        "request": use.request,
        "agent and second": use.agent,
        "agent that comes": use.attach,
    }
    table = [
        {
            "by": name,
            "Redis_scripts": asked.scripts,
            "Redis_CPU_ms": 1e3 * asked.redis,
            "DB_transactions": asked.transactions,
            "DB_CPU_ms": 1e3 * asked.postgres,
            "connections_Redis_DB": "",
        }
        for name, asked in rows.items()
    ]
    table[0]["connections_Redis_DB"] = f"{use.redis_connections:.3g}, {use.postgres_connections:.3g}"
    return table
