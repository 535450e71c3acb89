"""Usage reports as CSV, safe to open with a spreadsheet: no cell is taken for a formula.

Names of owners, tenants and models are written by others than those who read the report. A text that begins as a
formula does is prefixed with an apostrophe (OWASP, "CSV Injection"); numbers, negative ones too, stay numbers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import TextIO

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # full-width ones too
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?", re.ASCII)


def write_csv(out: TextIO, rows: Sequence[Mapping[str, str | int]]) -> None:
    """Writes a header and `rows`, which have the same columns; nothing for no rows."""
    if rows:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows([{name: escape_cell(value) for name, value in row.items()} for row in rows])


def escape_cell(value: str | int) -> str | int:
    """The value as a cell that no spreadsheet evaluates."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    # Spreadsheets skip spaces before a formula.
    return f"'{value}" if value.lstrip(" \u00a0").startswith(_FORMULA_STARTS) else value
