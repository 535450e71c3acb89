"""One connection to a verifier: dialling and greeting it, and the sessions that are open there.

It relays; which verifier a session opens at is the pool's choice, and what a lost one means is the session's affair.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect

from edgedraft.links.outbox import Outbox, SessionTable
from edgedraft.links.race import race
from edgedraft.wire import (
    BAD_FRAME,
    CLOSE_FAILED,
    CLOSE_LEAVING,
    MAX_FRAME,
    PROTOCOL,
    VERSION,
    AgentChanged,
    Close,
    Commit,
    Draft,
    FromVerifier,
    Hello,
    Open,
    Queued,
    VerifierWelcome,
    WireError,
    decode_from_verifier,
    encode_frame,
)
from gateway.model.served_model import ServedModel
from gateway.verifiers.health import VerifierHealth

log = logging.getLogger(__name__)

ENGINE_PATH = "/v1/engine"
DIAL_SECONDS = 10.0
PING_SECONDS = 10.0


class VerifierListener(Protocol):
    """A session, as a link to a verifier sees it. Called from the event loop; must not block."""

    def on_commit(self, commit: Commit) -> None: ...

    def on_queued(self, ahead: int) -> None:
        """The session waits there for room, with `ahead` others before it."""
        ...

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        """The session is over at this verifier: refused, failed, or lost with the link. `code` is a wire.CLOSE_*.

        An overloaded one tells when to try it again, in seconds.
        """
        ...


async def dial(url: str, token: str, name: str, host: str = "") -> tuple[ClientConnection, VerifierWelcome]:
    """Connect and greet; at the address `host`, if there is one, and to whom the URL names.

    Raises WireError for a peer that is no verifier of our protocol, OSError, TimeoutError or a websockets exception.
    """
    at: dict[str, Any] = {"host": host} if host else {}
    connection = await connect(
        url.rstrip("/") + ENGINE_PATH,
        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
        open_timeout=DIAL_SECONDS,
        close_timeout=1,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        max_size=MAX_FRAME,
        compression=None,
        proxy=None,
        **at,
    )
    try:
        await connection.send(encode_frame([Hello(PROTOCOL, name)]))
        async with asyncio.timeout(DIAL_SECONDS):
            messages = decode_from_verifier(await connection.recv())
        match messages:
            case [VerifierWelcome(protocol=protocol) as welcome]:
                if protocol != PROTOCOL:
                    raise WireError(VERSION, f"it speaks protocol {protocol}, not {PROTOCOL}")
                return connection, welcome
        raise WireError(BAD_FRAME, "its first frame is no welcome")
    except BaseException:
        await connection.close()
        raise


class VerifierLink:
    """A greeted verifier, until `run` ends."""

    def __init__(
        self, url: str, connection: ClientConnection, model: ServedModel, max_sessions: int, health: VerifierHealth
    ) -> None:
        self.url = url
        self.health = health
        self.draining = False  # it begins nothing new: it said so, or the link is ending
        self.model = model
        self.max_sessions = max_sessions
        self._connection = connection
        self._sessions: SessionTable[VerifierListener] = SessionTable()
        self._outbox = Outbox()
        self._queued: set[int] = set()

    @property
    def running(self) -> int:
        """Sessions of this gateway that are open there."""
        return len(self._sessions)

    @property
    def has_capacity(self) -> bool:
        return self.running < self.max_sessions

    @property
    def waiting(self) -> int:
        """Those of them that wait there for room, as far as it said."""
        return len(self._queued)

    @property
    def preferred(self) -> bool:
        """Whether it is to be given a new session, if there is a choice."""
        return not self.health.ejected and not (self.health.on_probation and self.running)

    def open(self, listener: VerifierListener, message: Open) -> VerifierSession:
        number = self._sessions.add(listener)
        self._outbox.put(replace(message, session=number))
        return VerifierSession(self, number)

    async def run(self) -> None:
        """Relay until the connection ends.

        Raises WireError, TooSlow or a websockets exception; whoever is still open is then told.
        """
        try:
            await race(self._read(), self._outbox.write(self._connection.send), self._outbox.overflow())
        finally:
            self.draining = True
            for listener in self._sessions.clear():
                listener.on_verifier_closed(CLOSE_FAILED, "the link to the verifier was lost")
            await self._connection.close()

    async def _read(self) -> None:
        while True:
            for message in decode_from_verifier(await self._connection.recv()):
                self._deliver(message)

    def _deliver(self, message: FromVerifier) -> None:
        if isinstance(message, VerifierWelcome):
            raise WireError(BAD_FRAME, "a second welcome")
        try:
            listener = self._sessions.find(message.session)
        except KeyError:
            raise WireError(BAD_FRAME, f"session {message.session} was never opened") from None
        if listener is None:
            return
        if isinstance(message, Queued):
            self._queued.add(message.session)
            listener.on_queued(message.ahead)
            return
        self._queued.discard(message.session)
        if isinstance(message, Commit):
            if message.finish:
                self._sessions.remove(message.session)
            listener.on_commit(message)
        else:
            self._sessions.remove(message.session)
            self.draining = self.draining or message.code == CLOSE_LEAVING
            if message.code == CLOSE_FAILED:
                self.health.record_failure()
            listener.on_verifier_closed(message.code, message.reason, message.retry_after)

    def relay(self, draft: Draft) -> bool:
        """A verifier that falls behind does without drafts, which cost no text; False then."""
        if self._outbox.crowded:
            return False
        self._outbox.put(draft)
        return True

    def tell(self, edge: AgentChanged) -> None:
        self._outbox.put(edge)

    def end(self, number: int) -> None:
        """Cancel a session, unless it has ended already."""
        if self._sessions.remove(number):
            self._queued.discard(number)
            self._outbox.put(Close(number))


class VerifierSession:
    """One session's place at a verifier."""

    def __init__(self, link: VerifierLink, number: int) -> None:
        self.link = link
        self._number = number

    def draft(self, draft: Draft) -> bool:
        """Whether it is on its way."""
        return self.link.relay(replace(draft, session=self._number))

    def set_agent(self, agent: str) -> None:
        """Name the agent that drafts from now on, "" for none."""
        self.link.tell(AgentChanged(self._number, agent))

    def close(self) -> None:
        self.link.end(self._number)
