"""The experiment's plots as PNG files: throughput by streams, gaps by round trip, cost by edge price, kinds of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.report import Result
from loadtest.seed.bench import EDGES, NAMES

COLOURS = dict(zip(NAMES.values(), ("#8c8c8c", "#c8851f", "#e3bd83", "#4f81bd", "#1a7f4b"), strict=True))
EDGE_PRICES = (0.0, 0.07, 0.14, 0.21, 0.28, 0.35, 0.5, 0.7)  # dollars an hour
STREAMS = (1, 4)


def draw(result: Result, folder: Path) -> None:
    """Write them all into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    closed = [row for row in result.rows if row["load"].endswith(("stream", "streams"))]
    kinds, latency = result.parts[0], result.parts[1]
    _save(folder / "seed-throughput.png", lambda axes: _throughput(axes, closed, result.settings["ridge_rows"]))
    _save(folder / "seed-latency.png", lambda axes: _latency(axes, latency.rows))
    _save(folder / "seed-cost.png", lambda axes: _cost(axes, closed, result.settings["prices"]["server_hour"]))
    _save(folder / "seed-kinds.png", lambda axes: _kinds(axes, kinds.rows))


def _save(file: Path, plot: Callable[[Axes], None]) -> None:
    figure = Figure(figsize=(7, 4.2), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    plot(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(file)


def _lines(axes: Axes, rows: Sequence[dict[str, Any]], x: Callable[[dict[str, Any]], float], y: str) -> None:
    for way, colour in COLOURS.items():
        of_way = [row for row in rows if row["way"] == way]
        axes.plot([x(row) for row in of_way], [row[y] for row in of_way], "o-", label=way, color=colour)
    axes.legend(frameon=False)


def _throughput(axes: Axes, rows: Sequence[dict[str, Any]], ridge: int) -> None:
    _lines(axes, rows, lambda row: int(row["load"].split()[0]), "tokens_per_s")
    axes.set_xscale("log", base=2)
    axes.axvline(ridge, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(f"ridge: {ridge} rows", (ridge, 0), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at once")
    axes.set_ylabel("tokens a second of the server")


def _latency(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _lines(axes, rows, lambda row: row["round_trip_ms"], "gap_ms")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("round trip to the desktop, ms")
    axes.set_ylabel("mean time between tokens, ms")


def _cost(axes: Axes, rows: Sequence[dict[str, Any]], server_hour: float) -> None:
    """Desktops rented for as long as they have a stream."""
    for streams, style in zip(STREAMS, ("o-", "s--"), strict=True):
        rates = {row["way"]: row["tokens_per_s"] for row in rows if row["load"].split()[0] == str(streams)}
        for name, way in NAMES.items():
            desktops = streams if name in EDGES else 0
            dollars = [(server_hour + desktops * price) / 3600 / rates[way] * 1e6 for price in EDGE_PRICES]
            axes.plot(EDGE_PRICES, dollars, style, color=COLOURS[way], label=f"{way}, {streams}", markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("price of a desktop, $ an hour")
    axes.set_ylabel("$ a million tokens")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _kinds(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    axes.bar([row["kind"] for row in rows], [row["tokens_per_verify"] for row in rows], color=COLOURS[NAMES["d"]])
    axes.set_ylabel("tokens per verify")
