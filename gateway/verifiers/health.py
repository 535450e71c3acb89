"""Whether a verifier is fit for new sessions, told by the work that it did: commits against sessions that it failed.

One that fails session after session is left alone for a while, longer each time; then one session tries it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

EJECTION_FAILURES = 3  # in a row, and it is left alone
BASE_EJECTION_SECONDS, MAX_EJECTION_SECONDS = 5.0, 120.0


class VerifierHealth:
    """Of one verifier, for as long as the gateway knows its address: a new connection alone makes it no healthier."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._ejected_until = 0.0
        self._ejection_seconds = BASE_EJECTION_SECONDS

    def record_failure(self) -> None:
        """It lost a session or its connection, fell silent, or said what cannot be."""
        if self.ejected:
            return  # those that were open there when it was ejected tell nothing new
        self._failures += 1
        if self._failures >= EJECTION_FAILURES:
            self._ejected_until = self._clock() + self._ejection_seconds
            self._ejection_seconds = min(MAX_EJECTION_SECONDS, 2 * self._ejection_seconds)

    def record_success(self) -> None:
        """It committed tokens."""
        if self._failures and not self.ejected:
            self._failures = 0
            self._ejection_seconds = BASE_EJECTION_SECONDS

    @property
    def ejected(self) -> bool:
        """Left alone, unless there is no other."""
        return self._clock() < self._ejected_until

    @property
    def on_probation(self) -> bool:
        """To be given one session at a time."""
        return self._failures >= EJECTION_FAILURES
