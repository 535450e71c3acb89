"""Hedged requests: a session whose first commit is late is opened at a second verifier too, and the first commit wins.

Both verifiers would commit the same text, so nothing has to be reconciled; the cost is one prompt computed twice. How
often that may happen is bounded by a token bucket. The technique is that of Dean and Barroso, The Tail at Scale (2013).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from edgedraft.wire import Commit, Draft, Open
from gateway.verifiers.link import VerifierLink, VerifierListener, VerifierSession

HEDGE_RATIO = 0.1  # hedges per opened session, on average
MAX_BURST = 10.0  # hedges that may be saved up
SLOW_FACTOR = 3.0  # a first commit is late after this multiple of the mean time to it
_WEIGHT = 0.1  # of the newest first commit in the moving means


class HedgedListener(VerifierListener, Protocol):
    """A session that may move to another verifier while it is open."""

    def on_verifier_changed(self) -> None:
        """Later commits come from a verifier that has seen no draft of this session."""
        ...


class HedgePolicy:
    """When a session is hedged, over all sessions of a gateway. `after` is in seconds, 0 for never."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._allowance = MAX_BURST
        self._mean = 0.0
        self._mean_per_token = 0.0

    @property
    def enabled(self) -> bool:
        return self._after > 0

    def record_open(self, tokens: int) -> float:
        """Count a session opened with `tokens` tokens; returns how long to wait for its first commit, in seconds.

        0 stands for no limit.
        """
        self._allowance = min(MAX_BURST, self._allowance + HEDGE_RATIO)
        return self._after and max(self._after, SLOW_FACTOR * self._mean, SLOW_FACTOR * self._mean_per_token * tokens)

    def record_first_commit(self, seconds: float, tokens: int) -> None:
        """Record the time to a first commit."""
        self._mean += _WEIGHT * (seconds - self._mean)
        self._mean_per_token += _WEIGHT * (seconds / max(1, tokens) - self._mean_per_token)

    def try_acquire(self) -> bool:
        """Take one hedge from the bucket; False if it is empty."""
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True


class HedgedSession:
    """A VerifierSession that may be open at two verifiers until one of them commits; same methods."""

    def __init__(
        self,
        listener: HedgedListener,
        link: VerifierLink,
        message: Open,
        policy: HedgePolicy,
        select_second: Callable[[VerifierLink], VerifierLink | None],
        on_hedge: Callable[[], None],
    ) -> None:
        """Opens at `link`; `select_second` returns a verifier besides the first, `on_hedge` counts hedges."""
        self._listener = listener
        self._message = message
        self._policy = policy
        self._select_second = select_second
        self._on_hedge = on_hedge
        self._agent = message.agent
        self._opened_at = time.monotonic()
        self._tokens = len(message.prompt) + len(message.committed)
        self._queued = False
        self._committed = False
        self._timer: asyncio.TimerHandle | None = None
        self._attempts: list[_Attempt] = []
        self._current = self._open(link)
        self._wait = policy.record_open(self._tokens)
        if self._wait:
            self._timer = asyncio.get_running_loop().call_later(self._wait, self._hedge)

    @property
    def link(self) -> VerifierLink:
        """The verifier that drafts go to; after the end, the last one."""
        return self._current.link

    @property
    def attempt(self) -> int:
        """Number of the attempt whose commits are passed on (wire.Open)."""
        return self._current.session.attempt

    def draft(self, draft: Draft) -> bool:
        """Returns whether the draft was sent; False if it was dropped (VerifierLink.send_draft)."""
        return self._current.session.draft(draft)

    def set_agent(self, agent: str) -> None:
        """Name the agent that drafts from now on, "" for none."""
        self._agent = agent
        for attempt in self._attempts:
            attempt.session.set_agent(agent)

    def report_failure(self) -> None:
        """Count every verifier that the session is open at as failed."""
        for attempt in self._attempts:
            attempt.link.health.record_failure()

    def close(self) -> None:
        self._cancel_timer()
        for attempt in self._attempts:
            attempt.session.close()
        self._attempts.clear()

    def on_commit(self, attempt: _Attempt, commit: Commit) -> None:
        if attempt not in self._attempts:
            return
        if not self._committed:
            self._committed = True
            self._cancel_timer()
            self._policy.record_first_commit(time.monotonic() - self._opened_at, self._tokens)
            for other in self._attempts:
                if other is not attempt:
                    other.session.close()
            self._attempts = [attempt]
            if attempt is not self._current:
                self._current = attempt
                self._listener.on_verifier_changed()
        self._listener.on_commit(commit)

    def on_queued(self, ahead: int) -> None:
        if not self._queued:
            self._queued = True
            self._listener.on_queued(ahead)

    def on_progress(self, computed: int) -> None:
        """A prompt that is being computed is not late: the wait for its first commit starts again."""
        self._listener.on_progress(computed)
        if computed and self._timer and not self._committed:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._wait, self._hedge)

    def on_closed(self, attempt: _Attempt, code: str, reason: str, retry_after: float) -> None:
        if attempt not in self._attempts:
            return
        self._attempts.remove(attempt)
        if not self._attempts:
            self._cancel_timer()
            self._current = attempt
            self._listener.on_verifier_closed(code, reason, retry_after)
        elif attempt is self._current:
            self._current = self._attempts[0]
            self._listener.on_verifier_changed()

    def _open(self, link: VerifierLink) -> _Attempt:
        attempt = _Attempt(self, link)
        self._attempts.append(attempt)
        attempt.session = link.open(attempt, replace(self._message, agent=self._agent))
        return attempt

    def _hedge(self) -> None:
        link = self._select_second(self._current.link)
        if link and self._policy.try_acquire():
            self._on_hedge()
            self._open(link)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()


class _Attempt:
    """The session at one of the two verifiers: a VerifierListener that passes each message on with itself as origin."""

    session: VerifierSession

    def __init__(self, hedged: HedgedSession, link: VerifierLink) -> None:
        self.link = link
        self._hedged = hedged

    def on_commit(self, commit: Commit) -> None:
        self._hedged.on_commit(self, commit)

    def on_queued(self, ahead: int) -> None:
        self._hedged.on_queued(ahead)

    def on_progress(self, computed: int) -> None:
        self._hedged.on_progress(computed)

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        self._hedged.on_closed(self, code, reason, retry_after)
