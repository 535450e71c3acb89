"""Waiting for drafts: the forecasts of all sessions, and until when the engine stays idle (step_start.py decides).

It does not wait where nothing but prompts is to be computed or where a session decodes that no agent drafts for, and no
session longer than its latency budget allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.session_state import SessionState
from verifier.scheduling.step_costs import StepCosts
from verifier.scheduling.step_start import SessionForecast, best_start

OVERDUE_DELAYS = 0.5  # a draft that is late by this many of its usual delays is not expected any more
MIN_OVERDUE_SECONDS = 0.004
MIN_WAIT_SECONDS = 0.0005  # for a draft that is due
UNKNOWN = 1e3  # seconds


class DraftWait:
    """Decides until when the engine waits, at most `max_seconds`."""

    def __init__(self, step_costs: StepCosts, calibrations: Calibrations, max_seconds: float) -> None:
        self._step_costs = step_costs
        self._calibrations = calibrations
        self._max_seconds = max_seconds

    def start_time(
        self,
        sessions: Mapping[int, SessionState],
        decoding: Sequence[int],
        values: Mapping[int, float],
        row_price: float,
        rate: float,
        now: float,
    ) -> float:
        """When the next step of the `decoding` sessions is to begin. `values` are those of the drafts that are there.

        `row_price` is in tokens, `rate` in tokens per second of the whole engine.
        """
        if not decoding or not self._step_costs.has_measurements:
            return now
        plain_seconds = self._step_costs.decode_seconds(len(decoding))
        latest = inf
        forecasts: list[SessionForecast] = []
        for key in decoding:
            session = sessions[key]
            if not session.agent or (session.prediction and session.prediction.propose(1)[0]):
                return now
            budget = session.latency_budget.max_draft_wait(plain_seconds, self._max_seconds)
            began = now if session.wait_started_at is None else session.wait_started_at
            latest = min(latest, began + budget)
            if latest <= now:
                return now
            forecasts.append(self._forecast(session, values.get(key, 0.0), row_price, now))
        start = best_start(forecasts, now, latest, rate, plain_seconds)
        if start > now:
            for key in decoding:
                if sessions[key].wait_started_at is None:
                    sessions[key].wait_started_at = now
        return start

    def _forecast(self, session: SessionState, value: float, row_price: float, now: float) -> SessionForecast:
        growth = self._calibrations.get(session.agent).growth
        interval, delay = growth.interval or UNKNOWN, UNKNOWN if growth.delay is None else growth.delay
        if session.has_draft:
            agent_value = 0.0 if session.verifier_drafted else value
            frames = growth.frames(len(session.tree))
            expected, slack = _next_frame(session, session.committed_at, growth.resume_delay, interval)
            missing = 0
        else:
            agent_value = 0.0
            since, missing = session.missing_since()
            if session.tree.awaits_epoch or (session.is_exhausted and growth.survival < 0.5):
                expected, slack = (-inf if since is None else since + delay), OVERDUE_DELAYS * delay
            else:
                missing = session.tree.surplus
                expected, slack = _next_frame(session, since, growth.resume_delay, interval)
            frames = -float(missing)
        overdue = now > expected + max(MIN_OVERDUE_SECONDS, slack) or len(session.tree) >= session.window
        return SessionForecast(
            value=value,
            agent_value=agent_value,
            frames=frames,
            chance=growth.kept_after_decode**missing,
            next_frame_at=inf if overdue else max(expected, now + MIN_WAIT_SECONDS),
            interval=interval,
            delay=delay,
            curve=growth.curve(row_price),
            kept_after_decode=growth.kept_after_decode,
        )


def _next_frame(
    session: SessionState, committed_at: float | None, resume_delay: float | None, interval: float
) -> tuple[float, float]:
    """When the next frame of the draft under way is expected, and how late it usually may be."""
    last = session.last_draft_at
    if last is not None and (committed_at is None or last > committed_at):
        return last + interval, interval
    if committed_at is None or resume_delay is None:
        return -inf, 0.0
    return committed_at + resume_delay, OVERDUE_DELAYS * resume_delay
