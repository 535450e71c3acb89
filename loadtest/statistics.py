"""Ratios with confidence intervals. Repeats share prompts, lengths and arrivals, so each repeat gives one ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import mean, stdev

from scipy.stats import t


@dataclass(frozen=True)
class Ratio:
    """Geometric mean over repeats with its 95 % confidence interval (Student's t on the logarithms)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Paired by repeat; with one repeat the interval is the value itself."""
    logs = [log(a / b) for a, b in zip(over, under, strict=True)]
    middle = mean(logs)
    half = 0.0
    if len(logs) > 1:
        half = float(t.ppf(0.975, len(logs) - 1)) * stdev(logs) / sqrt(len(logs))
    return Ratio(exp(middle), exp(middle - half), exp(middle + half))
