"""Seconds of a step by its number of rows, learned from measured steps.

A row is one token of a forward: a prompt token, a decoded token or a draft node. The curve's shape (where rows are
nearly free, where they begin to cost) hardly changes while a model runs; its scale follows context lengths and the load
of the machine. The two are therefore learned at different rates.
"""

from __future__ import annotations

from bisect import bisect_left, insort

SHAPE_WEIGHT = 0.05  # of the newest measurement
SCALE_WEIGHT = 0.1
MAX_SCALE = 8.0  # either way; see _fit_scale
MAX_RECORDED_ROWS = 256  # larger steps are extrapolated


class StepCosts:
    """A table of measured step sizes; sizes between and beyond them are interpolated and extrapolated linearly."""

    def __init__(self) -> None:
        self._rows: list[int] = []  # ascending
        self._seconds: dict[int, float] = {}  # by rows, at scale 1
        self._scale = 1.0

    @property
    def has_measurements(self) -> bool:
        return bool(self._rows)

    def seconds(self, rows: int) -> float:
        """Expected seconds of a step of `rows` rows; 1.0 for any size before the first measurement."""
        return self._shape(rows) * self._scale if self._rows else 1.0

    def decode_seconds(self, sessions: int) -> float:
        """Expected seconds of a step in which each of `sessions` decodes one token without a draft."""
        return self.seconds(max(1, sessions))

    def prompt_seconds(self, prompt_tokens: int, other_rows: int) -> float:
        """Expected seconds by which `prompt_tokens` rows make a step of `other_rows` longer."""
        alone = self.seconds(other_rows) if other_rows else 0.0
        return max(0.0, self.seconds(prompt_tokens + other_rows) - alone) if prompt_tokens else 0.0

    def record(self, rows: int, seconds: float) -> None:
        """Learn from a step of `rows` rows that took `seconds`."""
        if rows > MAX_RECORDED_ROWS or seconds <= 0.0:
            return
        if rows not in self._seconds:
            # A new size is added at the current scale and does not change it.
            insort(self._rows, rows)
            self._seconds[rows] = seconds / self._scale
            return
        self._scale = self._fit_scale(seconds / self._seconds[rows])
        self._seconds[rows] += SHAPE_WEIGHT * (seconds / self._scale - self._seconds[rows])

    def _fit_scale(self, measured: float) -> float:
        """Within bounds: under noise the scale would grow for ever, and the sizes that are measured shrink by as much.

        A size that is seldom measured would then be expected to take a million times as long as it does.
        """
        scale = self._scale + SCALE_WEIGHT * (measured - self._scale)
        return min(MAX_SCALE, max(1 / MAX_SCALE, scale))

    def _shape(self, rows: int) -> float:
        index = bisect_left(self._rows, rows)
        if index < len(self._rows) and self._rows[index] == rows:
            return self._seconds[rows]
        if index == 0:
            return self._seconds[self._rows[0]]
        below = self._rows[index - 1]
        if index < len(self._rows):
            above = self._rows[index]
            slope = (self._seconds[above] - self._seconds[below]) / (above - below)
        else:
            slope = self._seconds[below] / below
        return self._seconds[below] + max(0.0, slope) * (rows - below)
