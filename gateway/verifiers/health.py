"""Outlier ejection by passive health checks: commits are successes, failed sessions and lost connections are failures.

A verifier with several consecutive failures is ejected for a time that doubles with each further failure. After that
it is on probation: one session at a time, until one succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EJECTION_FAILURES = 3  # consecutive failures that eject a verifier
BASE_EJECTION_SECONDS, MAX_EJECTION_SECONDS = 5.0, 120.0


class VerifierHealth:
    """The health of one verifier. It outlives connections: connecting again is not a success."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._ejected_until = 0.0
        self._ejection_seconds = BASE_EJECTION_SECONDS

    def record_failure(self) -> None:
        """A session or the connection failed, was silent for too long, or sent an invalid commit."""
        if self.ejected:
            return  # sessions that were open when it was ejected say nothing new
        self._failures += 1
        if self._failures >= EJECTION_FAILURES:
            self._ejected_until = self._clock() + self._ejection_seconds
            self._ejection_seconds = min(MAX_EJECTION_SECONDS, 2 * self._ejection_seconds)

    def record_success(self) -> None:
        """Tokens were committed."""
        if self._failures and not self.ejected:
            self._failures = 0
            self._ejection_seconds = BASE_EJECTION_SECONDS

    @property
    def ejected(self) -> bool:
        """Not to be used while there is another verifier."""
        return self._clock() < self._ejected_until

    @property
    def on_probation(self) -> bool:
        """Was ejected and has had no success since: to be given one session at a time."""
        return self._failures >= EJECTION_FAILURES
