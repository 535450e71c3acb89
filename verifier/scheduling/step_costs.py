"""What a step takes, by its number of rows: a table that starts from a few measured steps and follows the running ones.

Its shape (where rows are nearly free, where they begin to cost) changes little while a model runs; its scale follows
contexts, neighbours and the machine. So the two are learnt at different speeds.
"""

from __future__ import annotations

from bisect import bisect_left, insort

SHAPE_WEIGHT = 0.05
SCALE_WEIGHT = 0.1
WIDEST = 256  # rows; above that no single row counts


class StepCosts:
    """Seconds of a step of so many rows."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._seconds: dict[int, float] = {}
        self._scale = 1.0

    @property
    def known(self) -> bool:
        """Whether anything was measured yet."""
        return bool(self._rows)

    def seconds(self, rows: int) -> float:
        """What a step of `rows` rows takes; 1.0 for any while nothing is known."""
        return self._shape(rows) * self._scale if self._rows else 1.0

    def measured(self, rows: int, seconds: float) -> None:
        """Learn from a step."""
        if rows > WIDEST:
            return
        if rows not in self._seconds:
            # A size not seen before joins the shape where the scale says it is; the scale is not moved by it.
            insort(self._rows, rows)
            self._seconds[rows] = seconds / self._scale
            return
        self._scale += SCALE_WEIGHT * (seconds / self._seconds[rows] - self._scale)
        self._seconds[rows] += SHAPE_WEIGHT * (seconds / self._scale - self._seconds[rows])

    def _shape(self, rows: int) -> float:
        place = bisect_left(self._rows, rows)
        if place < len(self._rows) and self._rows[place] == rows:
            return self._seconds[rows]
        if place == 0:
            return self._seconds[self._rows[0]]
        below = self._rows[place - 1]
        if place < len(self._rows):
            above = self._rows[place]
            slope = (self._seconds[above] - self._seconds[below]) / (above - below)
        else:
            slope = self._seconds[below] / below
        return self._seconds[below] + max(0.0, slope) * (rows - below)
