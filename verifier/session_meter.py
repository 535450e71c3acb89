"""What one session costs at this verifier, from its Open to its Spent, and whether a step is still under way.

Every second that a step took is on the meters of the sessions in it, whether they committed anything or not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from edgedraft.wire import Open, Progress, Spent

PROGRESS_SECONDS = 1.0  # between two Progress messages of a session
MIN_STEP_ALLOWANCE, STEP_FACTOR = 60.0, 10.0  # a step that lasts longer, or longer than expected, is no sign of life


class SessionMeter:
    """The costs of one session. Written by the engine's thread."""

    def __init__(self, message: Open) -> None:
        self._request = message.request
        self._attempt = message.attempt
        self._seconds = 0.0
        self._computed = 0
        self._cached: int | None = None
        self._total = len(message.prompt) + len(message.committed)
        self._uncomputed = self._total
        self._progress_at = time.monotonic()

    def add(self, seconds: float, computed: int, uncomputed: int, cached: int) -> None:
        """Add its part of a step. `cached` counts at the first one only."""
        self._seconds += seconds
        self._computed += computed
        self._uncomputed = uncomputed
        if self._cached is None:
            self._cached = cached

    def add_failed(self, seconds: float) -> None:
        """Add its part of a step that failed."""
        self._seconds += seconds

    def progress_is_due(self, now: float) -> bool:
        return now - self._progress_at >= PROGRESS_SECONDS

    def progress(self, session: int) -> Progress:
        self._progress_at = time.monotonic()
        return Progress(session, max(0, self._total - self._uncomputed), self._total)

    def report(self) -> list[Spent]:
        """The final report; none for a gateway that did not name the request."""
        if not self._attempt:
            return []
        return [Spent(self._request, self._attempt, self._seconds, self._computed, self._cached or 0)]


@dataclass(frozen=True, slots=True)
class StepUnderWay:
    """A step that began at `began` (time.monotonic()), and the sessions that wait for it, by link and number."""

    began: float
    expected_seconds: float
    addresses: tuple[tuple[int, int], ...]

    def is_sign_of_life(self, now: float) -> bool:
        """Whether it has lasted so long that sessions should hear of it, and not so long that it may hang."""
        allowance = max(MIN_STEP_ALLOWANCE, STEP_FACTOR * self.expected_seconds)
        return PROGRESS_SECONDS <= now - self.began <= allowance
