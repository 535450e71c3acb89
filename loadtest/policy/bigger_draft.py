"""`bench policy --bigger-acceptance`: an 8B draft on the user's desktop, beside what the server can afford.

A server's own draft takes time from its target; a desktop's does not, so it may be larger and right more often. The 8B
draft's forward on an RTX 4090 is computed: it reads its weights once, at four fifths of the memory's bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edgedraft.observability.progress import progress
from loadtest.policy.cells import BiggerDraft, Cell, ServerLoad, cells_by_load
from loadtest.policy.comparison import MEASURE, TITLES
from loadtest.policy.parallel import measure_all
from loadtest.policy.setting import Effort
from loadtest.report import Result
from loadtest.settings import BenchSettings
from loadtest.simulator.profiles import rtx_4090_forward
from loadtest.specedge.systems import EDGEDRAFT

SYSTEMS = ("datacenter_only", "best_speculation", EDGEDRAFT)
BIGGER = "8b"
PARAMETERS = 8.2e9
BITS = (4.5, 8.5)  # per weight, scales included: 4-bit and 8-bit quantization


@dataclass(frozen=True)
class Variant:
    """A system with the drafts of `cell`, in a row that is named by `base`, the cell without a bigger draft."""

    title: str
    system: str
    cell: Cell
    base: Cell


def compare_bigger_drafts(settings: BenchSettings) -> Result:
    """A row for each system and draft, a column for each number of streams."""
    groups = cells_by_load(settings.model_copy(update={"streams": [1]}))
    variants = [
        variant
        for group in groups
        for cell in group
        for variant in cell_variants(cell, SYSTEMS, settings.bigger_acceptance)
    ]
    tasks = [(variant, streams) for variant in variants for streams in settings.streams]
    found: dict[tuple[Variant, int], float] = {}
    with progress("bigger drafts", len(tasks), "runs") as advance:
        for task, rate in measure_all(partial(_rate, Effort.of(settings)), tasks, settings.jobs):
            found[task] = rate
            advance(note=task[0].title)
    return Result(
        "tokens per second of the server, with an 8B draft on the devices",
        [
            {"cell": variant.base.name.removesuffix(", 1 stream"), "system": variant.title}
            | {_streams(n): found[variant, n] for n in settings.streams}
            for variant in variants
        ],
        {},
        {"repeats": settings.repeats},
        ["virtual time; the 8B draft's acceptance is an assumption, its forwards on an RTX 4090 are computed"],
        by="cell",
    )


def cell_variants(cell: Cell, systems: Sequence[str], acceptances: Sequence[float]) -> list[Variant]:
    """The systems in this cell; then, by acceptance, an 8B draft beside the target, and on the devices by BITS."""
    variants = [Variant(TITLES[name], name, cell, cell) for name in systems]
    for acceptance in acceptances:
        load = ServerLoad(f"{cell.load.steps}-{BIGGER}", acceptance, cell.load.streams)
        title = f"{TITLES['best_speculation']}, 8B right {acceptance:g}"
        variants.append(Variant(title, "best_speculation", replace(cell, load=load), cell))
        for bits in BITS:
            forward = 1e3 * rtx_4090_forward(PARAMETERS, bits)
            title = f"{TITLES[EDGEDRAFT]}, 8B right {acceptance:g}, {forward:.1f} ms"
            bigger = replace(cell, bigger=BiggerDraft(acceptance, forward))
            variants.append(Variant(title, EDGEDRAFT, bigger, cell))
    return variants


def _rate(effort: Effort, task: tuple[Variant, int]) -> float:
    variant, streams = task
    cell = replace(variant.cell, load=replace(variant.cell.load, streams=streams))
    found: list[dict[str, Any]] = MEASURE[variant.system](cell, effort)
    return sum(one["tokens_per_s"] for one in found) / len(found)


def _streams(count: int) -> str:
    return "1_stream" if count == 1 else f"{count}_streams"
