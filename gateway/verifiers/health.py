"""Whether a verifier is fit for new sessions, told by the work that it did: commits against sessions that it failed.

One that fails session after session is left alone for a while, longer each time; then one session tries it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3  # in a row, and it is left alone
FIRST_SECONDS, LONGEST_SECONDS = 5.0, 120.0


class Health:
    """Of one verifier, for as long as the gateway knows its address: a new connection alone makes it no healthier."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0
        self._seconds = FIRST_SECONDS

    def failed(self) -> None:
        """It lost a session or its connection, fell silent, or said what cannot be."""
        if self.ejected:
            return  # those that were open there when it was ejected tell nothing new
        self._failures += 1
        if self._failures >= FAILURES:
            self._until = self._clock() + self._seconds
            self._seconds = min(LONGEST_SECONDS, 2 * self._seconds)

    def worked(self) -> None:
        """It committed tokens."""
        if self._failures and not self.ejected:
            self._failures = 0
            self._seconds = FIRST_SECONDS

    @property
    def ejected(self) -> bool:
        """Left alone, unless there is no other."""
        return self._clock() < self._until

    @property
    def on_trial(self) -> bool:
        """To be given one session at a time."""
        return self._failures >= FAILURES
