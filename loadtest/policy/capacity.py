"""`bench policy --capacity`: how many streams one server carries while each gets a given rate, by system.

The rate of a stream falls with their number. It is measured at 1, 2, 4 and so on streams until it is below the lowest
rate asked for; between two of these numbers each rate's place is then narrowed down by few more runs, and interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import exp, log

from edgedraft.observability.progress import progress
from loadtest.policy.bigger_draft import Variant, cell_variants
from loadtest.policy.cells import cells_by_load
from loadtest.policy.comparison import MEASURE, selected_systems
from loadtest.policy.parallel import measure_all
from loadtest.policy.setting import Effort
from loadtest.report import Result
from loadtest.settings import BenchSettings

RATES = (10, 20, 30, 40)  # tokens per second of a stream, ascending
MOST_STREAMS = 512
SYSTEMS = ("datacenter_only", "best_speculation", "rounds", "edgedraft")
CLOSE = 1.12  # two numbers of streams this close are interpolated


def measure_capacity(settings: BenchSettings) -> Result:
    """A row for each system and cell, apart from the number of streams."""
    systems = selected_systems(settings) if settings.systems else SYSTEMS
    cells = [cell for group in cells_by_load(settings.model_copy(update={"streams": [1]})) for cell in group]
    variants = [variant for cell in cells for variant in cell_variants(cell, systems, settings.bigger_acceptance)]
    found: dict[Variant, dict[int, int]] = {}
    with progress("capacity", len(variants), "systems") as advance:
        measure = partial(_capacities, Effort.of(settings, short=True))
        for variant, streams in measure_all(measure, variants, settings.jobs):
            found[variant] = streams
            advance(note=variant.title)
    return Result(
        "streams that one server carries while each gets so many tokens per second",
        [
            {"cell": _name(variant), "system": variant.title}
            | {f"{rate}_tokens/s": found[variant][rate] for rate in RATES}
            for variant in variants
        ],
        {},
        {"repeats": settings.repeats, "most_streams": MOST_STREAMS},
        [f"virtual time, mean rate of the streams; {MOST_STREAMS} stands for that many or more"],
        by="cell",
    )


def _name(variant: Variant) -> str:
    return variant.base.name.removesuffix(", 1 stream")


def _capacities(effort: Effort, variant: Variant) -> dict[int, int]:
    def rate(streams: int) -> float:
        cell = variant.cell
        found = MEASURE[variant.system](replace(cell, load=replace(cell.load, streams=streams)), effort)
        return sum(one["tokens_per_s"] for one in found) / len(found) / streams

    return most_streams(rate, RATES)


def most_streams(rate: Callable[[int], float], rates: Sequence[int]) -> dict[int, int]:
    """By each of `rates`: how many streams get as many tokens per second each; 0 if one alone does not.

    `rate` maps streams to the tokens per second of each and is taken to fall.
    """
    known = {1: rate(1)}
    while known[streams := max(known)] >= min(rates) and streams < MOST_STREAMS:  # large numbers take longest
        known[min(2 * streams, MOST_STREAMS)] = rate(min(2 * streams, MOST_STREAMS))
    return {least: _most(rate, known, least) for least in rates}


def _most(rate: Callable[[int], float], known: dict[int, float], least: float) -> int:
    """Adds what it measures to `known`, rates by numbers of streams."""
    while True:
        high = min((n for n, found in known.items() if found < least), default=0)
        low = max((n for n in known if n < high or not high), default=0)
        if not low or not high:
            return low
        between = _crossing(known, low, high, least)
        if high <= low + 1 or high <= CLOSE * low:
            return between
        # A little beyond the crossing, on the wider side, so that the next run is likely to close the bracket.
        aim = between * CLOSE**0.4 if high - between > between - low else between / CLOSE**0.4
        third = (high / low) ** (1 / 3)  # a curve with a bend must not make it creep
        streams = min(high - 1, max(low + 1, round(min(high / third, max(low * third, aim)))))
        known[streams] = rate(streams)


def _crossing(known: Mapping[int, float], low: int, high: int, least: float) -> int:
    """Where the rate falls below `least`, its logarithm taken as linear in that of the streams."""
    if known[high] <= 0 or known[low] <= known[high]:
        return low
    share = log(known[low] / least) / log(known[low] / known[high])
    return min(high - 1, int(exp(log(low) + share * log(high / low)) + 1e-9))
