"""The result of a benchmark, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

SIDE_BY_SIDE = 3


@dataclass(frozen=True)
class Result:
    """A comparison: a row per side, the ratios between sides, and the settings.

    With `by`, rows are grouped by the values of that column, and each group is printed as one table.
    """

    title: str
    rows: list[dict[str, Any]]
    ratios: dict[str, float]
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    parts: list[Result] = field(default_factory=list)  # further tables with other columns
    by: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document."""
        parts = {"parts": [{"title": part.title} | part.document for part in self.parts]} if self.parts else {}
        return {"rows": self.rows, "ratios": self.ratios, "settings": self.settings} | parts


def print_result(result: Result) -> None:
    """Prints tables, ratios and notes to stdout: up to SIDE_BY_SIDE rows as columns, more as rows."""
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
        print_result(part)


def print_markdown(result: Result) -> None:
    """Prints every table as Markdown."""
    print("\n".join(markdown_lines(result)))


def markdown_lines(result: Result) -> list[str]:
    """Every table as Markdown, one row per line, with ratios and notes as lists."""
    lines = ["", result.title, ""]
    headers = [name.replace("_", " ") for name in result.rows[0]]
    columns = zip(*(row.values() for row in result.rows), strict=True)
    aligned = ["---" if any(isinstance(value, str) for value in column) else "--:" for column in columns]
    for line in (headers, aligned, *([_cell(value) for value in row.values()] for row in result.rows)):
        lines.append("| " + " | ".join(line) + " |")
    remarks = [f"{name.replace('_', ' ')}: {ratio:.3f}" for name, ratio in result.ratios.items()] + result.notes
    if remarks:
        lines += ["", *(f"- {remark}" for remark in remarks)]
    for part in result.parts:
        lines += markdown_lines(part)
    return lines


def _table(title: str, rows: list[dict[str, Any]], side_by_side: bool) -> Table:
    table = Table(title=title, min_width=min(len(title), 76))
    lines = [[_cell(value) for value in row.values()] for row in rows]
    headers = [name.replace("_", " ") for name in rows[0]]
    if side_by_side:
        headers, *lines = [[header, *values] for header, values in zip(headers, zip(*lines, strict=True), strict=True)]
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
