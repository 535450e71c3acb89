"""One connection to a verifier: connecting, greeting, and the sessions that are open on it.

Which verifier a session opens at is decided by pool.py; what a lost verifier means for a session, by the session.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Protocol

from msgspec.structs import replace
from websockets.exceptions import InvalidStatus

from edgedraft.links.link import TRY_AGAIN_LATER, Frame, Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.session_table import SessionTable
from edgedraft.links.settings import GATEWAY_TO_VERIFIER
from edgedraft.links.websockets_transport import dial
from edgedraft.wire import (
    BAD_FRAME,
    CLOSE_FAILED,
    CLOSE_LEAVING,
    PROTOCOL,
    UNAUTHORIZED,
    VERSION,
    AgentChanged,
    Close,
    Commit,
    Draft,
    FromVerifier,
    Hello,
    Open,
    Progress,
    Queued,
    Spent,
    SpentRecorded,
    VerifierWelcome,
    WireError,
    decode_from_verifier,
)
from gateway.model.served_model import ServedModel
from gateway.verifiers.billing import AttemptBilling
from gateway.verifiers.discovery import VerifierAddress
from gateway.verifiers.health import VerifierHealth

ENGINE_PATH = "/v1/engine"


class VerifierListener(Protocol):
    """Receives what a verifier sends for one session. Called from the event loop; must not block."""

    def on_commit(self, commit: Commit) -> None: ...

    def on_queued(self, ahead: int) -> None:
        """The session waits at the verifier, with `ahead` others before it. At most once, before the first commit."""
        ...

    def on_progress(self, computed: int) -> None:
        """The verifier works on the session; `computed` tokens of its text so far, 0 while it waits."""
        ...

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        """The session has ended at this verifier: rejected, failed, or lost with the link. `code` is a wire.CLOSE_*.

        `retry_after` is when to try an overloaded verifier again, in seconds.
        """
        ...


async def connect(address: VerifierAddress, token: str, name: str) -> tuple[Link, VerifierWelcome]:
    """Connect to a verifier and exchange greetings.

    Raises WireError for a peer that refuses or is not a verifier of this protocol, OSError, TimeoutError,
    TransportClosed or a websockets exception.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else None
    url = address.url.rstrip("/") + ENGINE_PATH
    try:
        transport = await dial(url, GATEWAY_TO_VERIFIER, headers, address.host)
    except InvalidStatus as refused:
        status = refused.response.status_code
        if status in (401, 403):
            raise WireError(UNAUTHORIZED, "this verifier asks for another token: set --verifier-token") from None
        raise WireError(TRY_AGAIN_LATER, f"it answers HTTP {status}") from None
    link = Link(transport, GATEWAY_TO_VERIFIER)
    try:
        match decode_from_verifier(await link.greet(Hello(PROTOCOL, name, reports=True))):
            case [VerifierWelcome(protocol=protocol) as welcome]:
                if protocol != PROTOCOL:
                    raise WireError(VERSION, f"it speaks protocol {protocol}, not {PROTOCOL}")
                return link, welcome
        raise WireError(BAD_FRAME, "its first frame is no welcome")
    except BaseException:
        await link.close()
        raise


class VerifierLink:
    """A connected verifier, until `run` ends."""

    def __init__(
        self,
        url: str,
        link: Link,
        model: ServedModel,
        max_sessions: int,
        health: VerifierHealth,
        billing: AttemptBilling,
    ) -> None:
        self.url = url
        self.health = health
        self.draining = False  # opens no new sessions: the verifier is shutting down, or the link is ending
        self.model = model
        self.max_sessions = max_sessions
        self._link = link
        self._billing = billing
        self._sessions: SessionTable[VerifierSession] = SessionTable()
        self._outbox = Outbox(GATEWAY_TO_VERIFIER)
        self._queued: set[int] = set()

    @property
    def running(self) -> int:
        """Sessions of this gateway that are open at this verifier."""
        return len(self._sessions)

    @property
    def has_capacity(self) -> bool:
        return self.running < self.max_sessions

    def has_capacity_for(self, share: str) -> bool:
        """Whether a session of this key (Open.share) may be sent there.

        Where others have filled the link, a key with less than an equal part of it still may, since the verifier's
        queue makes room for it. They are at most twice `max_sessions` in all.
        """
        if self.has_capacity:
            return True
        if not share or self.running >= 2 * self.max_sessions:
            return False
        by_share = Counter(session.share for session in self._sessions)
        return by_share[share] < self.max_sessions // len(by_share.keys() | {share})

    @property
    def waiting(self) -> int:
        """Open sessions that the verifier reported as queued."""
        return len(self._queued)

    @property
    def preferred(self) -> bool:
        """Whether new sessions should open here if there is a choice: not ejected, and idle while on probation."""
        return not self.health.ejected and not (self.health.on_probation and self.running)

    def open(self, listener: VerifierListener, message: Open) -> VerifierSession:
        """Open a session; `message.session` is replaced by its number on this link."""
        session = VerifierSession(self, listener, message.share, message.request, self._billing.new_attempt())
        session.number = self._sessions.add(session)
        self._outbox.put(replace(message, session=session.number, attempt=session.attempt))
        return session

    async def run(self) -> None:
        """Relay until the connection ends; sessions still open are then closed with CLOSE_FAILED.

        Raises WireError or TransportClosed.
        """
        try:
            await self._link.run(self._outbox, self._take_frame)
        finally:
            self.draining = True
            for session in self._sessions.clear():
                self._billing.end(session.request, session.attempt, session.seconds)
                session.listener.on_verifier_closed(CLOSE_FAILED, "the link to the verifier was lost")
            await self._link.close()

    def send_draft(self, draft: Draft) -> bool:
        """Returns False if the draft was dropped because the outbox is congested, which changes no text."""
        if self._outbox.congested:
            return False
        self._outbox.put(draft)
        return True

    def set_agent(self, number: int, agent: str) -> None:
        self._outbox.put(AgentChanged(number, agent))

    def end(self, number: int) -> None:
        """Cancel a session, unless it has ended already."""
        session = self._sessions.find(number)
        if session:
            self._forget(number, session)
            self._outbox.put(Close(number))

    def _forget(self, number: int, session: VerifierSession) -> None:
        self._sessions.remove(number)
        self._queued.discard(number)
        self._billing.end(session.request, session.attempt, session.seconds)

    async def _take_frame(self, frame: Frame) -> None:
        for message in decode_from_verifier(frame):
            self._deliver(message)

    def _deliver(self, message: FromVerifier) -> None:
        """Raises WireError for what no correct verifier sends."""
        if isinstance(message, VerifierWelcome):
            raise WireError(BAD_FRAME, "a second welcome")
        if isinstance(message, Spent):
            recorded = SpentRecorded(message.request, message.attempt)
            self._billing.take(message, partial(self._outbox.put, recorded))
            return
        try:
            session = self._sessions.find(message.session)
        except KeyError:
            raise WireError(BAD_FRAME, f"session {message.session} was never opened") from None
        if session is None:
            return
        if isinstance(message, Queued):
            if not session.begun:
                session.begun = True
                self._queued.add(message.session)
                session.listener.on_queued(message.ahead)
            return
        if isinstance(message, Progress):
            session.listener.on_progress(message.computed)
            return
        self._queued.discard(message.session)
        if isinstance(message, Commit):
            session.begun = True
            session.seconds += message.seconds
            if message.finish:
                self._forget(message.session, session)
            session.listener.on_commit(message)
        else:
            self._forget(message.session, session)
            self.draining = self.draining or message.code == CLOSE_LEAVING
            if message.code == CLOSE_FAILED:
                self.health.record_failure()
            session.listener.on_verifier_closed(message.code, message.reason, message.retry_after)


class VerifierSession:
    """One session that is open at one verifier."""

    def __init__(
        self, link: VerifierLink, listener: VerifierListener, share: str = "", request: str = "", attempt: int = 0
    ) -> None:
        self.link = link
        self.listener = listener
        self.share = share
        self.request = request
        self.attempt = attempt
        self.seconds = 0.0  # that its commits carried
        self.number = 0
        self.begun = False  # it was queued or has commits: being queued is reported once and first

    def draft(self, draft: Draft) -> bool:
        """Returns whether the draft was sent; False if it was dropped (VerifierLink.send_draft)."""
        return self.link.send_draft(replace(draft, session=self.number))

    def set_agent(self, agent: str) -> None:
        """Name the agent that drafts from now on, "" for none."""
        self.link.set_agent(self.number, agent)

    def report_failure(self) -> None:
        """Count a failure of the verifier: silence, or an invalid commit."""
        self.link.health.record_failure()

    def close(self) -> None:
        self.link.end(self.number)
