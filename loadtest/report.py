"""What a benchmark gives back, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

SIDE_BY_SIDE = 3


@dataclass(frozen=True)
class Result:
    """Both sides of a comparison: a row a side, the ratios between them, and what it was run with.

    Rows that belong together, those of one value of the column `by`, are shown as one table, side by side.
    """

    title: str
    rows: list[dict[str, Any]]
    ratios: dict[str, float]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    parts: list[Result] = field(default_factory=list)  # tables of other columns that belong to it
    by: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """What is written as JSON."""
        parts = {"parts": [{"title": part.title} | part.document for part in self.parts]} if self.parts else {}
        return {"rows": self.rows, "ratios": self.ratios, "settings": self.settings} | parts


def show(result: Result) -> None:
    """Print tables, ratios and notes on stdout: a few sides stand side by side, many below each other."""
    console = Console()
    if result.by:
        console.print(f"[italic]{result.title}[/italic]")
        for value in dict.fromkeys(row[result.by] for row in result.rows):
            rows = [
                {name: cell for name, cell in row.items() if name != result.by}
                for row in result.rows
                if row[result.by] == value
            ]
            console.print(_table(f"{result.by.replace('_', ' ')}: {_cell(value)}", rows, side_by_side=True))
    else:
        console.print(_table(result.title, result.rows, side_by_side=len(result.rows) <= SIDE_BY_SIDE))
    for name, ratio in result.ratios.items():
        console.print(f"  {name.replace('_', ' ')}: [bold]{ratio:.3f}[/bold]")
    for note in result.notes:
        console.print(f"  {note}")
    for part in result.parts:
        show(part)


def _table(title: str, rows: list[dict[str, Any]], side_by_side: bool) -> Table:
    table = Table(title=title)
    lines = [[_cell(value) for value in row.values()] for row in rows]
    heads = [name.replace("_", " ") for name in rows[0]]
    if side_by_side:
        heads, *lines = [[head, *values] for head, values in zip(heads, zip(*lines, strict=True), strict=True)]
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
