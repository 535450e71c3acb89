"""Final reports of sessions that no gateway has recorded yet, and which gateways they are offered to.

A report goes to the gateway whose session it was. When that link is gone, it is offered to every other gateway, and to
each that connects later: whichever has the request in its ledger records it and says so. What is not recorded is
offered again, after pauses that double, so that reports which nobody knows take no turns of others. Runs in the event
loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from edgedraft.links.outbox import Outbox
from edgedraft.observability.logs import event
from edgedraft.wire import Spent

log = logging.getLogger(__name__)

MAX_REPORTS = 1 << 15  # kept; the oldest are dropped first
MAX_OFFERED = 1 << 11  # to one gateway in one round
MAX_AGE = 86400.0  # seconds
OFFER_SECONDS = 5.0  # between two rounds
FIRST_PAUSE, MAX_PAUSE = 10.0, 900.0  # seconds between two offers of a report


@dataclass(slots=True)
class _Kept:
    spent: Spent
    link: int | None  # whose session it was; None once that link is gone
    ended_at: float
    offer_at: float
    pause: float = FIRST_PAUSE


class SpentReports:
    """Reports by request and attempt, and the outboxes of the gateways that take them, by link number."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, int], _Kept] = {}
        self._outboxes: dict[int, Outbox] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, link: object) -> bool:
        """Whether the gateway of this link takes reports."""
        return link in self._outboxes

    def add_gateway(self, link: int, outbox: Outbox) -> None:
        """A gateway that takes reports has connected."""
        self._outboxes[link] = outbox
        for kept in self._kept.values():
            if kept.link is None:
                self._offer_next(kept)
        self.offer()

    def remove_gateway(self, link: int) -> None:
        """The link is gone: what it has not recorded is offered to the others."""
        self._outboxes.pop(link, None)
        for kept in self._kept.values():
            if kept.link == link:
                kept.link = None
                self._offer_next(kept)
        self.offer()

    def add(self, link: int, spent: Spent) -> None:
        """A session of this link has ended."""
        now = self._clock()
        kept = _Kept(spent, link if link in self._outboxes else None, now, now)
        self._kept[spent.request, spent.attempt] = kept
        self._drop_old()
        if kept.link is None:
            self._offer(kept, self._uncongested())
        else:
            self._offer(kept, self._outboxes)

    def record(self, request: str, attempt: int) -> None:
        """A gateway has recorded the report."""
        self._kept.pop((request, attempt), None)

    def offer(self) -> None:
        """Offer what is due, what has waited longest first. To be called every OFFER_SECONDS."""
        now = self._clock()
        open_to = self._uncongested()
        room = dict.fromkeys(open_to, MAX_OFFERED)
        due = [kept for kept in self._kept.values() if kept.offer_at <= now]
        for kept in sorted(due, key=lambda kept: kept.offer_at):
            if not open_to:
                return
            for link in self._offer(kept, open_to):
                room[link] -= 1
                if not room[link] or open_to[link].congested:
                    del open_to[link]

    def _offer(self, kept: _Kept, open_to: dict[int, Outbox]) -> list[int]:
        """Send a report to its gateway, or to all of these; returns their links."""
        links = list(open_to) if kept.link is None else [kept.link] if kept.link in open_to else []
        for link in links:
            open_to[link].put(kept.spent)
        if links:
            kept.offer_at = self._clock() + kept.pause
            kept.pause = min(2 * kept.pause, MAX_PAUSE)
        return links

    def _uncongested(self) -> dict[int, Outbox]:
        return {link: outbox for link, outbox in self._outboxes.items() if not outbox.congested}

    def _offer_next(self, kept: _Kept) -> None:
        kept.offer_at, kept.pause = self._clock(), FIRST_PAUSE

    def _drop_old(self) -> None:
        while self._kept:
            name, oldest = next(iter(self._kept.items()))
            if len(self._kept) <= MAX_REPORTS and self._clock() - oldest.ended_at < MAX_AGE:
                return
            del self._kept[name]
            event(
                log, "report of a session dropped", level=logging.WARNING, request=name[0], seconds=oldest.spent.seconds
            )
