"""Observers of an agent's link, and the plainest one: lines for a log or a service manager."""

from __future__ import annotations

import logging
from typing import Protocol

from edgedraft.wire import AgentWelcome

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Called in the event loop; must not block."""

    def attached(self, welcome: AgentWelcome) -> None: ...

    def round_trip(self, seconds: float) -> None:
        """A measured round-trip time."""
        ...

    def lost(self, why: str, again_in: float) -> None:
        """There is no link; the next attempt is `again_in` seconds away."""
        ...

    def moving(self, why: str) -> None:
        """The gateway shuts down; the agent connects again at once."""
        ...

    def paused(self, why: str) -> None:
        """Drafting pauses, or resumes if `why` is empty."""
        ...


class LineObserver:
    """Prints a line on stdout for the first attachment; logs everything else."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._attachments = 0

    def attached(self, welcome: AgentWelcome) -> None:
        self._attachments += 1
        if self._attachments == 1:
            print(f"edgedraft agent attached {welcome.agent} to {self._url}", flush=True)
        else:
            log.info("attached again as %s", welcome.agent)

    def round_trip(self, seconds: float) -> None:
        log.debug("round trip %.1f ms", 1e3 * seconds)

    def lost(self, why: str, again_in: float) -> None:
        log.warning("no gateway: %s; next try in %.1f s", why, again_in)

    def moving(self, why: str) -> None:
        log.info("moving: %s", why)

    def paused(self, why: str) -> None:
        log.info("drafting pauses: %s", why) if why else log.info("drafting goes on")
