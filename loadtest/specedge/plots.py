"""The experiment's plots as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.report import Result
from loadtest.specedge.systems import EDGEDRAFT, SYSTEMS, WITH_DEVICES

COLOURS = dict(zip(SYSTEMS.values(), ("#8c8c8c", "#c8851f", "#e3bd83", "#4f81bd", "#1a7f4b"), strict=True))
EDGE_PRICES = (0.0, 0.07, 0.14, 0.21, 0.28, 0.35, 0.5, 0.7)  # US dollars per hour
COST_STREAMS = (1, 4)


def draw(result: Result, folder: Path) -> None:
    """Writes specedge-{throughput,latency,cost,kinds}.png into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    closed_loop = [row for row in result.rows if row["load"].endswith(("stream", "streams"))]
    kinds, by_rtt = result.parts[0], result.parts[1]
    ridge, server_hour = result.settings["ridge_rows"], result.settings["prices"]["server_hour"]
    _save(folder / "specedge-throughput.png", lambda axes: _throughput(axes, closed_loop, ridge))
    _save(folder / "specedge-latency.png", lambda axes: _latency(axes, by_rtt.rows))
    _save(folder / "specedge-cost.png", lambda axes: _cost(axes, closed_loop, server_hour))
    _save(folder / "specedge-kinds.png", lambda axes: _kinds(axes, kinds.rows))


def _save(file: Path, plot: Callable[[Axes], None]) -> None:
    figure = Figure(figsize=(7, 4.2), dpi=144, layout="constrained")
    axes = figure.add_subplot()
    plot(axes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.savefig(file)


def _lines(axes: Axes, rows: Sequence[dict[str, Any]], x: Callable[[dict[str, Any]], float], y: str) -> None:
    for system, colour in COLOURS.items():
        own = [row for row in rows if row["system"] == system]
        axes.plot([x(row) for row in own], [row[y] for row in own], "o-", label=system, color=colour)
    axes.legend(frameon=False)


def _throughput(axes: Axes, rows: Sequence[dict[str, Any]], ridge: int) -> None:
    _lines(axes, rows, lambda row: int(row["load"].split()[0]), "tokens_per_s")
    axes.set_xscale("log", base=2)
    axes.axvline(ridge, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(f"ridge: {ridge} rows", (ridge, 0), xytext=(4, 6), textcoords="offset points", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("concurrent streams")
    axes.set_ylabel("tokens per second of the server")


def _latency(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    _lines(axes, rows, lambda row: row["rtt_ms"], "inter_token_ms")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("round-trip time to the device, ms")
    axes.set_ylabel("mean inter-token latency, ms")


def _cost(axes: Axes, rows: Sequence[dict[str, Any]], server_hour: float) -> None:
    """Devices rented for as long as they have a stream."""
    for streams, style in zip(COST_STREAMS, ("o-", "s--"), strict=True):
        rates = {row["system"]: row["tokens_per_s"] for row in rows if row["load"].split()[0] == str(streams)}
        for name, title in SYSTEMS.items():
            devices = streams if name in WITH_DEVICES else 0
            dollars = [(server_hour + devices * price) / 3600 / rates[title] * 1e6 for price in EDGE_PRICES]
            axes.plot(EDGE_PRICES, dollars, style, color=COLOURS[title], label=f"{title}, {streams}", markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("price of a device, $ per hour")
    axes.set_ylabel("$ per million tokens")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _kinds(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    axes.bar(
        [row["kind"] for row in rows], [row["tokens_per_verify"] for row in rows], color=COLOURS[SYSTEMS[EDGEDRAFT]]
    )
    axes.set_ylabel("tokens per verify")
