"""Whole numbers in a schema that the compiler cannot take as they are, and what of them it can.

It reads bounds and values as 64-bit floats and whole numbers as signed integers of 64 bits, and it fails at the lowest
of these; a constant there even ends its process. A bound beyond 2^53 is moved inwards, to the next one that it reads
exactly: every text still follows the schema, but some numbers next to the bound, 1,024 or more, are never written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import inf, isfinite, nextafter
from typing import Any

_EXACT = 1 << 53  # beyond, not every whole number is a float
_LOWEST = -(2**63) + 1024  # that the compiler takes
_HIGHEST = 2**63 - 1
_SIGNED_LOWEST, _UNSIGNED_HIGHEST = -(2**63), 2**64 - 1


@dataclass(frozen=True, slots=True)
class Misfit:
    """A number that a text cannot be held to exactly, at a place inside its schema. `left_out`: nor to less."""

    place: str
    value: int | float
    left_out: bool


def fit_whole_numbers(schema: dict[str, Any]) -> list[Misfit]:
    """Changes this schema, not those inside it, so that the compiler takes its whole numbers."""
    return [*_fit_values(schema), *_fit_bounds(schema)]


def _fit_bounds(schema: dict[str, Any]) -> list[Misfit]:
    """Bounds of integers only: those of other numbers are floats to a client too."""
    kinds = schema.get("type")
    if kinds != "integer" and not (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds):
        return []
    misfits: list[Misfit] = []
    for keyword, exclusive, to_bound in (
        ("minimum", "exclusiveMinimum", _fit_lowest),
        ("maximum", "exclusiveMaximum", _fit_highest),
    ):
        step = 1 if keyword == "minimum" else -1
        for name, more in ((keyword, 0), (exclusive, step)):
            value = schema.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) <= _EXACT:
                continue
            del schema[name]
            bound = _within(value, more, to_bound)
            if bound is None or bound != int(value) + more:
                misfits.append(Misfit(name, value, left_out=bound is None))
            if bound is not None:
                pick = max if keyword == "minimum" else min
                schema[keyword] = pick(bound, schema.get(keyword, bound))
    return misfits


def _within(value: int | float, more: int, to_bound: Callable[[int], int | None]) -> int | None:
    return to_bound(int(value) + more) if _SIGNED_LOWEST <= value <= _UNSIGNED_HIGHEST else None


def _fit_lowest(bound: int) -> int | None:
    if bound > _HIGHEST:
        return None
    near = int(float(bound))
    return max(_LOWEST, near if near >= bound else int(nextafter(float(bound), inf)))


def _fit_highest(bound: int) -> int | None:
    if bound < _LOWEST:
        return None
    if bound >= _HIGHEST:
        return _HIGHEST  # the float next to it stands for just this
    near = int(float(bound))
    return near if near <= bound else int(nextafter(float(bound), -inf))


def _fit_values(schema: dict[str, Any]) -> list[Misfit]:
    """Of `const` and `enum`. Of a choice the other values stay."""
    misfits: list[Misfit] = []
    if "const" in schema and (found := _find_unwritable(schema["const"])) is not None:
        del schema["const"]
        misfits.append(Misfit("const", found, left_out=True))
    if isinstance(choices := schema.get("enum"), list):
        unwritable = [_find_unwritable(choice) for choice in choices]
        misfits += [
            Misfit(f"enum/{number}", found, left_out=True)
            for number, found in enumerate(unwritable)
            if found is not None
        ]
        kept = [choice for choice, found in zip(choices, unwritable, strict=True) if found is None]
        if kept or not choices:
            schema["enum"] = kept
        else:
            del schema["enum"]
    return misfits


def _find_unwritable(value: Any) -> int | float | None:
    """The first number inside that the compiler would write as another one, or end by."""
    level = [value]
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, int | float) and not isinstance(item, bool) and not _is_writable(item):
                return item
        level = inner
    return None


def _is_writable(number: int | float) -> bool:
    if abs(number) <= _EXACT or number == _HIGHEST:
        return True
    try:
        read = float(number)
    except OverflowError:
        return False
    if not isfinite(read) or abs(read) == 2.0**63:
        return False
    # Beyond 64 bits it writes the shortest digits that are read as this float.
    return int(read if abs(read) < 2.0**63 else Decimal(repr(read))) == number or isinstance(number, float)
