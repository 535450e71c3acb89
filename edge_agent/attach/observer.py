"""Who is told what becomes of an agent's link, and the plain form of telling: lines for a log or a service manager."""

from __future__ import annotations

import logging
from typing import Protocol

from edgedraft.wire import AgentWelcome

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Called in the event loop; must not block."""

    def attached(self, welcome: AgentWelcome) -> None: ...

    def round_trip(self, seconds: float) -> None: ...

    def lost(self, why: str, again_in: float) -> None:
        """There is no link; the next try is `again_in` seconds away."""
        ...

    def moving(self, why: str) -> None:
        """The gateway ends in good order; the next one is dialled at once."""
        ...

    def paused(self, why: str) -> None:
        """Drafting pauses, or goes on where `why` is empty."""
        ...


class LineObserver:
    """A line on stdout when attached for the first time; the rest goes to the log."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._times = 0

    def attached(self, welcome: AgentWelcome) -> None:
        self._times += 1
        if self._times == 1:
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
