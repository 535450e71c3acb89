"""What a request would have taken the verifier without any draft: an estimate from measured seconds.

A Commit carries `seconds`, the session's share of the step that made it. With
    first   the seconds of the session's first step (its prompt is in it, which has to be computed either way),
    plain   the mean seconds of a step that committed one token and checked nothing,
    tokens  what was committed,
datacenter-only decoding takes

    baseline = first + (tokens - 1) * plain

and exactly the measured seconds where no step had anything to check. `plain` is the request's own mean if it had
OWN_STEPS such steps or more, else the recent mean of all requests of the model, else, before there is one, the mean of
the request's own later steps: those check nodes beside the one token, so they are the best bound that is there.
It is an estimate: a plain step's share depends on how many sessions the step served.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.sessions.speculation_stats import SpeculationStats

OWN_STEPS = 8
MEMORY_STEPS = 4096  # of which a model's recent mean is made; older ones fade
NS = 10**9


class PlainStepTimes:
    """The recent mean of a plain step's nanoseconds, by model."""

    def __init__(self) -> None:
        self._by_model: dict[str, tuple[int, int]] = {}  # steps, nanoseconds

    def observe(self, model: str, steps: int, nanoseconds: int) -> None:
        before, spent = self._by_model.get(model, (0, 0))
        if before > MEMORY_STEPS:
            before, spent = before // 2, spent // 2
        self._by_model[model] = before + steps, spent + nanoseconds

    def mean_ns(self, model: str) -> int | None:
        steps, nanoseconds = self._by_model.get(model, (0, 0))
        return nanoseconds // steps if steps else None


def verifier_ns(choices: Sequence[SpeculationStats]) -> int:
    """What the verifier spent on all of them, in nanoseconds."""
    return sum(nanoseconds(stats.seconds) for stats in choices)


def baseline_ns(choices: Sequence[SpeculationStats], model: str, plain_times: PlainStepTimes) -> int:
    """What it would have spent, in nanoseconds, by the formula above. Learns from the plain steps of `choices`."""
    for stats in choices:
        plain_times.observe(model, stats.plain_steps, nanoseconds(stats.plain_seconds))
    return sum(_choice_baseline_ns(stats, plain_times.mean_ns(model)) for stats in choices)


def nanoseconds(seconds: float) -> int:
    return round(max(0.0, seconds) * NS)


def _choice_baseline_ns(stats: SpeculationStats, recent: int | None) -> int:
    later = stats.steps - 1
    if later <= stats.plain_steps:
        return nanoseconds(stats.seconds)
    if stats.plain_steps >= OWN_STEPS or recent is None:
        steps, seconds = stats.plain_steps, stats.plain_seconds
        if not steps:
            steps, seconds = later, stats.seconds - stats.first_seconds
        plain = nanoseconds(seconds) // steps
    else:
        plain = recent
    return nanoseconds(stats.first_seconds) + max(0, stats.tokens - 1) * plain
