"""The end of a verifier in good order: no session begins any more, those that are open are finished.

What outlasts the grace is ended with its gateway's link, and goes on at another verifier. Signals and sockets are
edgedraft/serving/server.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from edgedraft.observability.logs import event

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
LAST_COMMITS = 0.1  # seconds for the last commits to leave


class Drain:
    """`busy` tells whether sessions are open; it is the server's to set."""

    def __init__(self, grace: float) -> None:
        self.begun = False
        self.busy: Callable[[], bool] = lambda: False
        self._grace = grace

    async def run(self) -> None:
        """Ends when all sessions have, or with the grace."""
        self.begun = True
        event(log, "draining", grace=self._grace)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self.busy():  # noqa: ASYNC110 - the engine's thread sets no event
                    await asyncio.sleep(LOOK_SECONDS)
                await asyncio.sleep(LAST_COMMITS)
        event(log, "drained", left=self.busy())
