"""A session's place at a verifier that may be at two of them until one commits: the second is asked when the first is
silent for long, and whichever commits first goes on alone.

Both would write the same text, so nothing has to be agreed; it costs one prompt computed twice. How often that may
happen is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from edgedraft.wire import Commit, Draft, Open
from gateway.verifiers.link import VerifierLink, VerifierListener, VerifierSession

HEDGE_RATIO = 0.1  # of all opens that may be hedged
MAX_BURST = 10.0  # hedges
SLOW_FACTOR = 3.0  # times what a first commit usually takes: no silence yet
_WEIGHT = 0.1  # of the newest first commit in what is usual


class HedgedListener(VerifierListener, Protocol):
    """A session whose place may change to another verifier."""

    def on_verifier_changed(self) -> None:
        """What follows comes from a verifier that has seen no draft so far."""
        ...


class HedgePolicy:
    """When a second verifier is asked, over all sessions. `after` is in seconds, 0 for never."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._saved = MAX_BURST
        self._usual = 0.0
        self._usual_per_token = 0.0

    def on_open(self, tokens: int) -> float:
        """Note an open with so many tokens; returns how long to wait for its first commit, 0 for ever."""
        self._saved = min(MAX_BURST, self._saved + HEDGE_RATIO)
        return self._after and max(self._after, SLOW_FACTOR * self._usual, SLOW_FACTOR * self._usual_per_token * tokens)

    def on_first_commit(self, seconds: float, tokens: int) -> None:
        """A first commit took so long."""
        self._usual += _WEIGHT * (seconds - self._usual)
        self._usual_per_token += _WEIGHT * (seconds / max(1, tokens) - self._usual_per_token)

    def try_acquire(self) -> bool:
        """Whether one more may be hedged; it then is."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class HedgedSession:
    """As verifier_link.Lease. `second` chooses a verifier beside the first, if there is one; `hedged` counts."""

    def __init__(
        self,
        listener: HedgedListener,
        link: VerifierLink,
        message: Open,
        hedges: HedgePolicy,
        second: Callable[[VerifierLink], VerifierLink | None],
        hedged: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._message = message
        self._hedges = hedges
        self._second = second
        self._count = hedged
        self._agent = message.agent
        self._at = time.monotonic()
        self._tokens = len(message.prompt) + len(message.committed)
        self._queued = False
        self._won = False
        self._timer: asyncio.TimerHandle | None = None
        self._sides: list[_Attempt] = []
        self._first = self._add(link)
        if wait := hedges.on_open(self._tokens):
            self._timer = asyncio.get_running_loop().call_later(wait, self._hedge)

    @property
    def link(self) -> VerifierLink:
        """Where it is, or was last."""
        return self._first.link

    def draft(self, draft: Draft) -> bool:
        """Whether it is on its way."""
        return self._first.lease.draft(draft)

    def set_agent(self, agent: str) -> None:
        """Name the agent that drafts from now on, "" for none."""
        self._agent = agent
        for side in self._sides:
            side.lease.set_agent(agent)

    def close(self) -> None:
        self._stop_waiting()
        for side in self._sides:
            side.lease.close()
        self._sides.clear()

    def report_failure(self) -> None:
        """It is given up for what it did, or did not do."""
        for side in self._sides:
            side.link.health.record_failure()

    def on_commit(self, side: _Attempt, commit: Commit) -> None:
        if side not in self._sides:
            return
        if not self._won:
            self._won = True
            self._stop_waiting()
            self._hedges.on_first_commit(time.monotonic() - self._at, self._tokens)
            for other in self._sides:
                if other is not side:
                    other.lease.close()
            self._sides = [side]
            if side is not self._first:
                self._first = side
                self._listener.on_verifier_changed()
        self._listener.on_commit(commit)

    def on_queued(self, ahead: int) -> None:
        if not self._queued:
            self._queued = True
            self._listener.on_queued(ahead)

    def on_closed(self, side: _Attempt, code: str, reason: str, retry_after: float) -> None:
        if side not in self._sides:
            return
        self._sides.remove(side)
        if not self._sides:
            self._stop_waiting()
            self._first = side
            self._listener.on_verifier_closed(code, reason, retry_after)
        elif side is self._first:
            self._first = self._sides[0]
            self._listener.on_verifier_changed()

    def _add(self, link: VerifierLink) -> _Attempt:
        side = _Attempt(self, link)
        self._sides.append(side)
        side.lease = link.open(side, replace(self._message, agent=self._agent))
        return side

    def _hedge(self) -> None:
        link = self._second(self._first.link)
        if link and self._hedges.try_acquire():
            self._count()
            self._add(link)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()


class _Attempt:
    """One of the verifiers: its messages, and from whom they are."""

    lease: VerifierSession

    def __init__(self, hedged: HedgedSession, link: VerifierLink) -> None:
        self.link = link
        self._hedged = hedged

    def on_commit(self, commit: Commit) -> None:
        self._hedged.on_commit(self, commit)

    def on_queued(self, ahead: int) -> None:
        self._hedged.on_queued(ahead)

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        self._hedged.on_closed(self, code, reason, retry_after)
