"""Prints rows: as a table on a terminal, as tab-separated lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """Prints `rows` under `titles`. The columns named in `numbers` are aligned right.

    No value is shortened, because `keys revoke` needs a complete id: a narrow terminal wraps the lines.
    """
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    natural = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    Console(width=max(console.width, natural)).print(table)
