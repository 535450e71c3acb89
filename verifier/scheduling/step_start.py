"""When the next step begins: when it and what its end finds are worth most, less what waiting costs.

docs/scheduling.md derives the rule. All sessions that decode are in the step. Waiting until t costs `rate * (t - now)`
tokens, `rate` being the tokens per second that the engine commits in the long run. It gains what drafts grow by until
then. A session whose draft is still under way is not lost to a step that begins without it: it decodes one token, and
finds its draft at the step's end. So both what a step commits and what its end finds count, for every session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from verifier.scheduling.draft_growth import Values

COMPARED_TIMES = 24
MIN_GAIN = 0.05  # tokens that waiting must promise over starting now
FRAMES_AHEAD = 8  # of growth after the last draft that is missing has begun to arrive


@dataclass(frozen=True, slots=True)
class SessionForecast:
    """What is known of one session's drafts. Values are in tokens (draft_growth.py), times in seconds.

    `value` is that of the nodes that may be verified now, and `agent_value` that of the agent's among them; the others
    are of the verifier's own prompt lookup. `frames` is how many frames the agent's draft has grown by; negative while
    it is under way and tokens that it was to guess have been decoded without it. Its next frame is expected at
    `next_frame_at`, inf for never, and further ones each `interval`. `curve[k]` is the usual value of a draft of k
    frames, `delay` how long the first frame takes after a commit that contradicts the draft. `chance` is the
    probability that a draft under way contains the tokens decoded without it, `kept_after_decode` that of one token.
    """

    value: float
    agent_value: float
    frames: float
    chance: float
    next_frame_at: float
    interval: float
    delay: float
    curve: Values
    kept_after_decode: float


def best_start(
    forecasts: Sequence[SessionForecast], now: float, latest: float, rate: float, step_seconds: float
) -> float:
    """When to begin the next step, `now` or later and not after `latest`.

    `rate` is in tokens per second of the whole engine, `step_seconds` the duration of the step.
    """
    expected = [forecast.next_frame_at for forecast in forecasts if forecast.next_frame_at < inf]
    if not expected or latest <= now or rate <= 0:
        return now
    value, agent_value, chance = (_column(forecasts, name) for name in ("value", "agent_value", "chance"))
    next_frame_at, interval, delay = (_column(forecasts, name) for name in ("next_frame_at", "interval", "delay"))
    kept = _column(forecasts, "kept_after_decode")
    curves = np.array([forecast.curve for forecast in forecasts])
    # Where a draft is worth less than others of its age, its tokens are less certain, and so are those that follow.
    growth = _shift(curves, _column(forecasts, "frames"))
    usual = growth[:, :1]
    scale = np.where(agent_value > 0, np.minimum(1.0, agent_value / np.maximum(usual, 1e-6)), chance)
    growth = agent_value + scale * (growth - usual)

    horizon = min(latest - now, step_seconds, max(expected) - now + FRAMES_AHEAD * float(interval.max()))
    times = now + np.linspace(0.0, max(horizon, 0.0), COMPARED_TIMES)
    ends = times + step_seconds
    later = np.linspace(ends[0], ends[-1] + step_seconds, COMPARED_TIMES)
    by_then = _at_times(growth, np.concatenate((times, ends, later)), next_frame_at, interval)
    present, at_end, grown = np.split(by_then, 3, axis=1)
    # What the end of a step that begins at each of `times` finds: the draft as it is by then, or after the best wait.
    own_rate = rate / len(forecasts)
    best_later = np.maximum.accumulate((grown - own_rate * later)[:, ::-1], axis=1)[:, ::-1]
    following = np.searchsorted(later, ends).clip(max=COMPARED_TIMES - 1)
    left = np.maximum(at_end, best_later[:, following] + own_rate * ends) - present
    kept = np.minimum(kept, np.maximum(at_end - present, 0.0))
    waits = np.linspace(0.0, step_seconds, COMPARED_TIMES)
    new_draft = (_at_times(curves, waits, delay, interval) - own_rate * waits).max(axis=1, keepdims=True)
    after = np.maximum(left - kept, kept * new_draft) + (1 - kept) * new_draft
    worth = (np.maximum(value, present) + after).sum(axis=0) - rate * (times - now)
    best = int(worth.argmax())
    return float(times[best]) if worth[best] > worth[0] + MIN_GAIN else now


def _column(forecasts: Sequence[SessionForecast], name: str) -> Values:
    """One field of all forecasts, [sessions, 1]."""
    return np.array([[getattr(forecast, name)] for forecast in forecasts])


def _shift(curves: Values, frames: Values) -> Values:
    """The curves [sessions, frames] as they go on from fractional positions [sessions, 1]; those below 0 are at 0."""
    last = curves.shape[1] - 1
    positions = np.clip(frames + np.arange(last + 1), 0.0, last)
    below = positions.astype(np.int64)
    low, high = np.take_along_axis(curves, below, 1), np.take_along_axis(curves, np.minimum(below + 1, last), 1)
    return low + (positions - below) * (high - low)


def _at_times(curves: Values, times: Values, first_at: Values, interval: Values) -> Values:
    """The curves at `times`, if the first frame comes at `first_at` [sessions, 1]; [sessions, times]."""
    frames = (times - first_at) / interval + (1 + 1e-9)
    return np.take_along_axis(curves, frames.clip(0, curves.shape[1] - 1).astype(np.int64), 1)
