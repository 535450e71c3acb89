"""Estimates the verifier time that a request would have taken without drafts, from measured step times.

A Commit carries `seconds`, the session's share of the step that made it. With
    opened  number of verifiers that committed: 1, and more for a session that was reopened at others,
    first   seconds of the first step at each of them, which includes the text to compute,
    plain   mean seconds of a plain step: a later one that committed one token and verified no draft,
    tokens  number of committed tokens,
datacenter-only decoding takes

    baseline = first + (tokens - opened) * plain

and exactly the measured seconds if no step verified a draft. `plain` is the request's own mean if it had OWN_STEPS
plain steps or more, otherwise the recent mean of the model, otherwise the mean of all later steps of the request, which
is an upper bound. It stays an estimate: a session's share of a step depends on how many sessions the step served.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.records.speculation_stats import SpeculationStats

OWN_STEPS = 8
MEMORY_STEPS = 4096  # past this count, the sums behind a model's recent mean are halved
NS = 10**9


class PlainStepTimes:
    """The recent mean time of a plain step, by model."""

    def __init__(self) -> None:
        self._by_model: dict[str, tuple[int, int]] = {}  # model -> steps, nanoseconds

    def observe(self, model: str, steps: int, nanoseconds: int) -> None:
        before, spent = self._by_model.get(model, (0, 0))
        if before > MEMORY_STEPS:
            before, spent = before // 2, spent // 2
        self._by_model[model] = before + steps, spent + nanoseconds

    def mean_ns(self, model: str) -> int | None:
        steps, nanoseconds = self._by_model.get(model, (0, 0))
        return nanoseconds // steps if steps else None


def verifier_ns(choices: Sequence[SpeculationStats]) -> int:
    """Verifier time of all choices, in nanoseconds."""
    return sum(nanoseconds(stats.seconds) for stats in choices)


def counted_ns(choices: Sequence[SpeculationStats]) -> dict[int, int]:
    """Verifier time of all choices by attempt, in nanoseconds."""
    counted: dict[int, int] = {}
    for stats in choices:
        for attempt, seconds in stats.attempts.items():
            counted[attempt] = counted.get(attempt, 0) + nanoseconds(seconds)
    return counted


def baseline_ns(choices: Sequence[SpeculationStats], model: str, plain_times: PlainStepTimes) -> int:
    """Baseline of all choices, in nanoseconds. Adds their plain steps to `plain_times` first."""
    for stats in choices:
        plain_times.observe(model, stats.plain_steps, nanoseconds(stats.plain_seconds))
    return sum(_choice_baseline_ns(stats, plain_times.mean_ns(model)) for stats in choices)


def nanoseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * NS)


def _choice_baseline_ns(stats: SpeculationStats, recent: int | None) -> int:
    later = stats.steps - stats.first_steps
    if later <= stats.plain_steps:
        return nanoseconds(stats.seconds)
    if stats.plain_steps >= OWN_STEPS or recent is None:
        steps, seconds = stats.plain_steps, stats.plain_seconds
        if not steps:
            steps, seconds = later, stats.seconds - stats.first_seconds
        plain = nanoseconds(seconds) // steps
    else:
        plain = recent
    return nanoseconds(stats.first_seconds) + max(0, stats.tokens - stats.first_steps) * plain
