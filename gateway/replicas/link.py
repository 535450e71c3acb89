"""The requesting replica's link to a host replica: connecting to it, and the sessions that have or want slots there.

Which replicas a session requests slots at is decided by remote_agents.py.
"""

from __future__ import annotations

import hmac
import time
from typing import Protocol

from msgspec.structs import replace

from edgedraft.devices import OTHER, known_device
from edgedraft.links.link import Frame, Link
from edgedraft.links.outbox import Outbox
from edgedraft.links.session_table import SessionTable
from edgedraft.links.settings import REPLICA
from edgedraft.links.websockets_transport import dial
from edgedraft.tree import DraftViolation
from edgedraft.wire import BAD_FRAME, VIOLATION, Close, Commit, Draft, Open, WireError
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
    decode_to_requester,
)


class SlotRequester(Protocol):
    """Receives what becomes of a requested slot. Called from the event loop; must not block."""

    def on_queued(self) -> None:
        """No slot is free; the request is queued."""
        ...

    def on_granted(self, slot: RemoteSlot) -> None:
        """The slot is reserved, and is to be opened or closed."""
        ...

    def on_unavailable(self, slot: RemoteSlot) -> None:
        """The request has ended without a slot."""
        ...


async def connect(address: str, handshake: Handshake) -> Link:
    """Connect to a host replica; both sides are authenticated.

    Raises HandshakeFailed, OSError, TimeoutError or a websockets exception.
    """
    challenge, expected = handshake.challenge(address)
    transport = await dial(address.rstrip("/") + PATH, REPLICA, {CHALLENGE_HEADER: challenge})
    response = transport.response_headers.get(RESPONSE_HEADER, "")
    if not hmac.compare_digest(response.encode(errors="replace"), expected.encode()):
        await transport.close()
        raise HandshakeFailed("it does not have the secret")
    return Link(transport, REPLICA)


class ReplicaLink:
    """A connected host replica, until `run` ends."""

    def __init__(self, address: str, link: Link) -> None:
        self.address = address
        self.ended = False
        self._link = link
        self._outbox = Outbox(REPLICA)
        self._slots: SessionTable[RemoteSlot] = SessionTable()

    @property
    def sessions(self) -> int:
        """Sessions of this replica that have a slot there or are queued."""
        return len(self._slots)

    def request_slot(self, requester: SlotRequester, session: WaitingSession) -> RemoteSlot:
        slot = RemoteSlot(self, requester, session.owner)
        slot.number = self._slots.add(slot)
        tenant, owner = session.owner
        self.put(RequestSlot(slot.number, tenant, owner, session.fingerprint, session.vocab_size))
        return slot

    async def run(self) -> None:
        """Relay until the connection ends; slots and requests are then lost. Raises WireError or TransportClosed."""
        try:
            await self._link.run(self._outbox, self._take_frame)
        finally:
            self.ended = True
            for slot in self._slots.clear():
                slot.lost()
            await self._link.close()

    def put(self, message: RequestSlot | Open | Commit | Close) -> None:
        self._outbox.put(message)

    def end(self, number: int) -> None:
        if self._slots.remove(number):
            self.put(Close(number))

    async def _take_frame(self, frame: Frame) -> None:
        for message in decode_to_requester(frame):
            self._deliver(message)

    def _deliver(self, message: ToRequester) -> None:
        try:
            slot = self._slots.find(message.session)
        except KeyError:
            raise WireError(BAD_FRAME, f"no slot was requested for session {message.session}") from None
        if slot is None:
            return
        if isinstance(message, Close):
            self._slots.remove(message.session)
            slot.lost()
        else:
            slot.deliver(message)


class RemoteSlot:
    """One session's slot at a host replica: first requested, then granted (slot.AgentHost), then open (AgentSlot)."""

    def __init__(self, link: ReplicaLink, requester: SlotRequester, owner: Owner) -> None:
        self.number = 0
        self.identity = ""  # the agent's, as is `device`, once the slot is granted
        self.device = OTHER
        self._link = link
        self._requester = requester
        self._owner = owner
        self._listener: AgentListener | None = None
        self._seconds, self._running, self._reported_at = 0.0, 1, time.monotonic()

    @property
    def owner(self) -> Owner:
        return self._owner

    def deliver(self, message: SlotGranted | SlotQueued | Draft | SlotUsage) -> None:
        """Raises WireError for what no correct replica sends."""
        if isinstance(message, Draft):
            self._deliver_draft(message)
        elif isinstance(message, SlotGranted | SlotQueued) and self.identity:
            raise WireError(BAD_FRAME, "a slot that was granted before")
        elif isinstance(message, SlotQueued):
            self._requester.on_queued()
        else:
            self._running = max(1, message.running)
            self._reported_at = time.monotonic()
            if isinstance(message, SlotUsage):
                self._seconds = message.seconds
            else:
                self.identity, self.device = message.agent, known_device(message.device)
                self._requester.on_granted(self)

    def lost(self) -> None:
        if self._listener:
            self._listener.on_agent_lost()
        else:
            self._requester.on_unavailable(self)

    def open(self, listener: AgentListener, message: Open) -> RemoteSlot:
        self._listener = listener
        self.restart(message)
        return self

    def restart(self, message: Open) -> None:
        self._link.put(replace(message, session=self.number))

    def seconds(self) -> float:
        """As last reported by the host, and since then an equal share among the sessions that it reported."""
        return self._seconds + (time.monotonic() - self._reported_at) / self._running

    def commit(self, commit: Commit) -> None:
        self._link.put(replace(commit, session=self.number))

    def close(self) -> None:
        self._link.end(self.number)

    def _deliver_draft(self, draft: Draft) -> None:
        if self._listener is None:
            raise WireError(BAD_FRAME, "a draft for a session that has not begun")
        try:
            self._listener.on_draft(draft)
        except DraftViolation as violation:  # the host has checked it, so the host is at fault
            raise WireError(VIOLATION, str(violation)) from None
