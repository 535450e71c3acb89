"""What draft forwards cost by their size, learnt from those that were run."""

from __future__ import annotations

from bisect import bisect_left, insort

MAX_FIRST_RATIO = 2.0  # of a first measurement to what was expected
SMOOTHING = 0.1  # weight of the newest value in a moving average


class ForwardCosts:
    """Seconds of a forward by its size, which is its number of requests or of tokens in a row, as moving averages.

    A size that was never tried is taken to cost no more than the nearest smaller one, up to twice that size, so that it
    is tried; beyond that the time grows in proportion.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []  # ascending
        self._seconds: dict[int, float] = {}

    def record(self, size: int, seconds: float) -> None:
        """Learn from a forward of this size."""
        if size not in self._seconds:
            # One slow forward, beside other work of the machine, must not keep this number from being tried again.
            expected = self.seconds(size) if self._sizes else seconds
            insort(self._sizes, size)
            self._seconds[size] = min(seconds, MAX_FIRST_RATIO * expected)
        else:
            self._seconds[size] += SMOOTHING * (seconds - self._seconds[size])

    def seconds(self, size: int) -> float:
        """Expected seconds of a forward of this size; 1.0 before the first measurement."""
        if not self._sizes:
            return 1.0
        index = bisect_left(self._sizes, size)
        if index < len(self._sizes) and (self._sizes[index] == size or index == 0):
            return self._seconds[self._sizes[index]]
        below = self._sizes[index - 1]
        if index < len(self._sizes):
            above = self._sizes[index]
            share = (size - below) / (above - below)
            return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])
        return self._seconds[below] * max(1.0, size / (2 * below))
