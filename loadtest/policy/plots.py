"""Heat maps of EdgeDraft's tokens per second over another system's: one PNG per system and step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from loadtest.policy.cells import Cell

COMPARED = {"best_static": "best static rule", "model_speculation": "speculation beside the target"}
LOWEST, HIGHEST = 0.5, 1.5  # ratios at the ends of the colour scale
PANEL = 2.1, 1.9  # inches


def draw(ratios: Mapping[str, Mapping[Cell, float]], folder: Path) -> None:
    """Writes policy-STEPS-over-SYSTEM.png into `folder`, which is created. `ratios`: by system and cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for system, title in COMPARED.items():
        found = ratios.get(system, {})
        for steps in dict.fromkeys(cell.load.steps_title for cell in found):
            own = {cell: ratio for cell, ratio in found.items() if cell.load.steps_title == steps}
            name = f"policy-{steps}-over-{system.replace('_', '-')}.png"
            _figure(own, f"EdgeDraft over {title}, {steps}").savefig(folder / name)


def _figure(ratios: Mapping[Cell, float], title: str) -> Figure:
    """Columns of panels by acceptance, rows by draft forward."""
    acceptances = sorted({cell.load.acceptance for cell in ratios})
    forwards = sorted({cell.draft_ms for cell in ratios})
    size = 1.4 + PANEL[0] * len(acceptances), 0.7 + PANEL[1] * len(forwards)
    figure = Figure(figsize=size, dpi=144, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(len(forwards), len(acceptances), squeeze=False, sharex=True, sharey=True)
    image: AxesImage | None = None
    for i, forward in enumerate(forwards):
        for j, acceptance in enumerate(acceptances):
            own = {c: r for c, r in ratios.items() if (c.draft_ms, c.load.acceptance) == (forward, acceptance)}
            image = _panel(grid[i][j], own, sorted({c.load.streams for c in ratios}), _round_trips(ratios))
            grid[i][j].set_title(f"acceptance {acceptance:g}, {forward:g} ms", fontsize=8)
        grid[i][0].set_ylabel("round trip, ms", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("streams", fontsize=8)
    if image:
        figure.colorbar(image, ax=grid.ravel().tolist(), extend="both")
    return figure


def _round_trips(cells: Mapping[Cell, float]) -> list[float]:
    return sorted({cell.round_trip for cell in cells})


def _panel(axes: Axes, ratios: Mapping[Cell, float], streams: Sequence[int], round_trips: Sequence[float]) -> AxesImage:
    at = {(cell.round_trip, cell.load.streams): ratio for cell, ratio in ratios.items()}
    values = [[at.get((trip, n), nan) for n in streams] for trip in round_trips]
    image = axes.imshow(values, cmap="RdYlGn", norm=TwoSlopeNorm(1.0, LOWEST, HIGHEST), aspect="auto", origin="lower")
    axes.set_xticks(range(len(streams)), [str(n) for n in streams], fontsize=7)
    axes.set_yticks(range(len(round_trips)), [f"{trip:g}" for trip in round_trips], fontsize=7)
    for (trip, n), ratio in at.items():
        axes.text(streams.index(n), round_trips.index(trip), f"{ratio:.2f}", ha="center", va="center", fontsize=7)
    return image
