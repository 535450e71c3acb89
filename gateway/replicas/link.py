"""A link to another replica whose agents this one borrows: dialling it, and the sessions that have a seat or want one.

Which replica a session asks is elsewhere.py's choice.
"""

from __future__ import annotations

import hmac
import time
from typing import Protocol

from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect

from edgedraft.links.outbox import Outbox, SessionTable
from edgedraft.links.race import race
from edgedraft.tree import DraftViolation
from edgedraft.wire import BAD_FRAME, MAX_FRAME, VIOLATION, Close, Commit, Draft, Open, WireError
from gateway.accounts import Owner
from gateway.agents.registry import WaitingSession
from gateway.agents.slot import AgentListener
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.messages import (
    CHALLENGE_HEADER,
    PATH,
    RESPONSE_HEADER,
    RequestSlot,
    SlotGranted,
    SlotQueued,
    SlotUsage,
    ToRequester,
    to_requester,
)

DIAL_SECONDS = 2.0
PING_SECONDS = 5.0
LINK_MESSAGES = 1 << 16


class SlotRequester(Protocol):
    """Whoever asked for a seat. Called from the event loop; must not block."""

    def on_queued(self) -> None:
        """There is none now; it stays in line."""
        ...

    def on_granted(self, desk: RemoteSlot) -> None:
        """One is held: to be opened, or closed."""
        ...

    def on_unavailable(self, desk: RemoteSlot) -> None:
        """There will be none: it is out of line."""
        ...


async def dial(address: str, prover: Handshake) -> ClientConnection:
    """Connect, both sides proven. Raises Unproven, OSError, TimeoutError or a websockets exception."""
    call, answer = prover.challenge(address)
    connection = await connect(
        address.rstrip("/") + PATH,
        additional_headers={CHALLENGE_HEADER: call},
        open_timeout=DIAL_SECONDS,
        close_timeout=1,
        ping_interval=PING_SECONDS,
        ping_timeout=PING_SECONDS,
        max_size=MAX_FRAME,
        compression=None,
        proxy=None,
        user_agent_header=None,
    )
    given = connection.response.headers.get(RESPONSE_HEADER, "") if connection.response else ""
    if not hmac.compare_digest(given.encode(errors="replace"), answer.encode()):
        await connection.close()
        raise HandshakeFailed("it does not have the secret")
    return connection


class ReplicaLink:
    """A proven link, until `run` ends."""

    def __init__(self, address: str, connection: ClientConnection) -> None:
        self.address = address
        self.ended = False
        self._connection = connection
        self._outbox = Outbox(LINK_MESSAGES)
        self._desks: SessionTable[RemoteSlot] = SessionTable()

    @property
    def sessions(self) -> int:
        """Those that have a seat there or stand in line."""
        return len(self._desks)

    def request_slot(self, asker: SlotRequester, seeker: WaitingSession) -> RemoteSlot:
        desk = RemoteSlot(self, asker, seeker.owner)
        desk.number = self._desks.add(desk)
        tenant, owner = seeker.owner
        self.put(RequestSlot(desk.number, tenant, owner, seeker.fingerprint, seeker.vocab_size))
        return desk

    async def run(self) -> None:
        """Relay until the connection ends.

        Raises WireError, TooSlow or a websockets exception; whoever is still there is then told.
        """
        try:
            await race(self._read(), self._outbox.write(self._connection.send), self._outbox.overflow())
        finally:
            self.ended = True
            for desk in self._desks.clear():
                desk.gone()
            await self._connection.close()

    def put(self, message: RequestSlot | Open | Commit | Close) -> None:
        self._outbox.put(message)

    def end(self, number: int) -> None:
        if self._desks.remove(number):
            self.put(Close(number))

    async def _read(self) -> None:
        while True:
            for message in to_requester(await self._connection.recv()):
                self._deliver(message)

    def _deliver(self, message: ToRequester) -> None:
        try:
            desk = self._desks.find(message.session)
        except KeyError:
            raise WireError(BAD_FRAME, f"session {message.session} was never sought for") from None
        if desk is None:
            return
        if isinstance(message, Close):
            self._desks.remove(message.session)
            desk.gone()
        else:
            desk.deliver(message)


class RemoteSlot:
    """One session's place at another replica: in line, then a seat.Desk, then a seat.Seat."""

    def __init__(self, link: ReplicaLink, asker: SlotRequester, owner: Owner) -> None:
        self.number = 0
        self.identity = ""
        self._link = link
        self._asker = asker
        self._owner = owner
        self._listener: AgentListener | None = None
        self._spent, self._running, self._told = 0.0, 1, time.monotonic()

    @property
    def owner(self) -> Owner:
        return self._owner

    @property
    def agent(self) -> str:
        return self.identity

    def deliver(self, message: SlotGranted | SlotQueued | Draft | SlotUsage) -> None:
        """Raises WireError for what no correct replica sends."""
        if isinstance(message, Draft):
            self._draft(message)
        elif isinstance(message, SlotGranted | SlotQueued) and self.identity:
            raise WireError(BAD_FRAME, "a seat that was granted before")
        elif isinstance(message, SlotQueued):
            self._asker.on_queued()
        else:
            self._running = max(1, message.running)
            self._told = time.monotonic()
            if isinstance(message, SlotUsage):
                self._spent = message.seconds
            else:
                self.identity = message.agent
                self._asker.on_granted(self)

    def gone(self) -> None:
        if self._listener:
            self._listener.on_agent_lost()
        else:
            self._asker.on_unavailable(self)

    def open(self, listener: AgentListener, message: Open) -> RemoteSlot:
        self._listener = listener
        self.restart(message)
        return self

    def restart(self, message: Open) -> None:
        self._link.put(replace(message, session=self.number))

    def seconds(self) -> float:
        """As the other replica said last, and since then the share that it said."""
        return self._spent + (time.monotonic() - self._told) / self._running

    def commit(self, commit: Commit) -> None:
        self._link.put(replace(commit, session=self.number))

    def close(self) -> None:
        self._link.end(self.number)

    def _draft(self, draft: Draft) -> None:
        if self._listener is None:
            raise WireError(BAD_FRAME, "a draft for a session that has not begun")
        try:
            self._listener.on_draft(draft)
        except DraftViolation as violation:  # the lender checks them: it is not the agent's fault any more
            raise WireError(VIOLATION, str(violation)) from None
