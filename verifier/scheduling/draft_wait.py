"""Waiting for drafts: whether the engine stays idle until drafts arrive, and until when.

The engine waits only when every session would gain by it and no prompt is left to compute. A step that runs anyway
includes all sessions, since a session left out of it would have to wait until it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.draft_selection import DraftSelector
from verifier.scheduling.policy import should_wait_for_deeper_draft, should_wait_for_draft, verification_pays
from verifier.scheduling.session_state import SessionState
from verifier.scheduling.step_costs import StepCosts

DEEPER_DRAFT_INTERVALS = 1.5  # mean intervals between drafts after which the next one is no longer expected


class DraftWait:
    """Decides which sessions wait for drafts, each for at most `max_seconds`."""

    def __init__(
        self, step_costs: StepCosts, calibrations: Calibrations, selector: DraftSelector, max_seconds: float
    ) -> None:
        self._step_costs = step_costs
        self._calibrations = calibrations
        self._selector = selector
        self._max_seconds = max_seconds

    def deadlines(self, sessions: Mapping[int, SessionState], decoding: Sequence[int], now: float) -> dict[int, float]:
        """Until when each of the `decoding` sessions waits; empty if a step is to run now."""
        deadlines: dict[int, float] = {}
        if len(decoding) < len(sessions):
            return deadlines
        for key in decoding:
            deadline = self._deadline(sessions[key], len(sessions), now)
            if deadline <= now:
                return {}
            deadlines[key] = deadline
        return deadlines

    def _deadline(self, session: SessionState, running: int, now: float) -> float:
        """Until when this session waits; `now` or earlier if it does not."""
        if not session.agent or session.wait_expired or not self._step_costs.has_measurements:
            return now
        if session.prediction and session.prediction.propose(1)[0]:
            return now
        deeper_by = self._deeper_draft_deadline(session, running) if session.has_draft else inf
        if deeper_by <= now or not verification_pays(session.acceptance_rate, running, self._step_costs.seconds):
            return now
        if not session.has_draft and not self._first_draft_pays(session, running):
            return now
        if session.wait_started_at is None:
            session.wait_started_at = now
            session.max_draft_wait = session.latency_budget.max_draft_wait(
                self._step_costs.decode_seconds(running),
                None if session.has_draft else session.draft_delay,
                self._max_seconds,
            )
        deadline = session.wait_started_at + session.max_draft_wait
        if deadline <= now and session.max_draft_wait > 0:
            session.wait_expired = True
        return min(deadline, deeper_by)

    def _first_draft_pays(self, session: SessionState, running: int) -> bool:
        """Whether to wait for a draft where there is none. While its delay is unknown: yes, to measure it."""
        arrivals = self._calibrations.get(session.agent).arrivals
        delay = session.draft_delay if session.draft_delay is not None else arrivals.delay
        if delay is None:
            return True
        tokens_without_draft = 1 + self._selector.expected_accepted(*self._selector.verifier_draft(session))
        verify_seconds = self._step_costs.seconds(round(running * (1 + arrivals.nodes_per_verify)))
        return should_wait_for_draft(
            arrivals, delay, tokens_without_draft, self._step_costs.decode_seconds(running), verify_seconds
        )

    def _deeper_draft_deadline(self, session: SessionState, running: int) -> float:
        """Until when it pays to wait for nodes below the present ones; minus infinity if it does not."""
        if session.draft_interval is None or session.last_draft_at is None:
            return -inf
        draft = self._selector.select(session)
        probabilities = self._calibrations.get(session.draft_source).path_probabilities(draft)
        leaf = max(probability for i, probability in enumerate(probabilities) if i not in draft.parents)
        plain_seconds = self._step_costs.decode_seconds(running)
        if not should_wait_for_deeper_draft(leaf, session.acceptance_rate, plain_seconds, session.draft_interval):
            return -inf
        return session.last_draft_at + DEEPER_DRAFT_INTERVALS * session.draft_interval
