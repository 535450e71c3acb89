"""Sessions of another replica at agents of this one: each waits in line like our own, and is relayed once it sits.

Only the owner whom the other replica names gets an agent, and only that owner's: the line is the registry's own. Drafts
are checked here, against a copy of the session's tree, for here is the agent that a wrong one is held against.
"""

from __future__ import annotations

import time

from msgspec.structs import replace

from edgedraft.links.outbox import Outbox
from edgedraft.tree import DraftTree, DraftViolation
from edgedraft.wire import FORBIDDEN, MAX_WINDOW, VIOLATION, Close, Commit, Draft, Open, WireError
from gateway.accounts import Owner
from gateway.agents.link import AgentLink, LocalSlot
from gateway.agents.registry import AgentRegistry
from gateway.agents.slot import AgentHost
from gateway.observability.metrics import Metrics
from gateway.replicas.messages import RequestSlot, SlotGranted, SlotQueued, SlotUsage, ToHost

MAX_REMOTE_SESSIONS = 1 << 16  # of one replica, waiting and seated
USAGE_SECONDS = 0.5  # between two times that a session's share of the agent's time is told


class RemoteSessions:
    """Those of one link to another replica, which reads what `outbox` sends."""

    def __init__(self, agents: AgentRegistry, metrics: Metrics, outbox: Outbox) -> None:
        self.outbox = outbox
        self.agents = agents
        self.metrics = metrics
        self._last = 0
        self._guests: dict[int, RemoteSession] = {}

    def deliver(self, messages: list[ToHost]) -> None:
        """Raises WireError for what no correct replica sends."""
        for message in messages:
            if isinstance(message, RequestSlot):
                self._seek(message)
                continue
            guest = self._guests.get(message.session)
            if guest is None:
                if message.session > self._last:
                    raise WireError(FORBIDDEN, f"session {message.session} was never sought for")
            elif isinstance(message, Open):
                guest.begin(message)
            elif isinstance(message, Commit):
                guest.commit(message)
            else:
                self.end(message.session)

    def end(self, number: int) -> None:
        """Its replica wants no agent for it any more."""
        if guest := self._guests.pop(number, None):
            guest.leave()

    def gone(self, number: int, reason: str) -> None:
        """The agent has gone, or there is none to be had: its replica is told."""
        if self._guests.pop(number, None):
            self.outbox.put(Close(number, reason=reason))

    def end_all(self) -> None:
        for number in list(self._guests):
            self.end(number)

    def _seek(self, message: RequestSlot) -> None:
        if message.session <= self._last:
            raise WireError(FORBIDDEN, f"session {message.session} was sought for before")
        self._last = message.session
        if len(self._guests) >= MAX_REMOTE_SESSIONS:
            self.outbox.put(Close(message.session, reason="too many sessions"))
            return
        guest = self._guests[message.session] = RemoteSession(self, message)
        self.agents.wait(guest)
        if not guest.seated:
            self.outbox.put(SlotQueued(message.session))


class RemoteSession:
    """One session of another replica: an agents.Seeker, and a seat.AgentListener once it sits."""

    def __init__(self, guests: RemoteSessions, message: RequestSlot) -> None:
        self._guests = guests
        self._number = message.session
        self._owner = message.tenant, message.owner
        self._fingerprint = message.fingerprint
        self._vocab_size = message.vocab_size
        self._link: AgentLink | None = None
        self._seat: LocalSlot | None = None
        self._tree: DraftTree | None = None
        self._told = 0.0

    @property
    def owner(self) -> Owner:
        return self._owner

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def seated(self) -> bool:
        return self._seat is not None

    def on_agent(self, agent: AgentHost) -> None:
        assert isinstance(agent, AgentLink), "the registry's own: this session does not look elsewhere"
        self._link, self._seat = agent, agent.reserve(self)
        self._guests.metrics.remote_sessions.inc()
        self._guests.outbox.put(SlotGranted(self._number, agent.identity, agent.running))

    def on_agent_lost(self) -> None:
        self._stand_up()
        self._guests.gone(self._number, "the agent has gone")

    def on_draft(self, draft: Draft) -> None:
        """Raises Violation."""
        assert self._tree is not None, "the agent was told of the session"
        if (token := max(draft.tokens)) >= self._vocab_size:
            raise DraftViolation(f"token {token} is outside the vocabulary of {self._vocab_size}")
        self._tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)
        outbox = self._guests.outbox
        outbox.put(replace(draft, session=self._number))
        if self._seat and self._link and time.monotonic() - self._told > USAGE_SECONDS:
            self._told = time.monotonic()
            outbox.put(SlotUsage(self._number, self._seat.seconds(), self._link.running))

    def begin(self, message: Open) -> None:
        """Raises WireError FORBIDDEN where no seat was granted."""
        if self._seat is None:
            raise WireError(FORBIDDEN, f"session {self._number} has no seat")
        if self._tree is None:
            self._tree = DraftTree(MAX_WINDOW, message.committed, message.epoch)
        self._seat.restart(message)

    def commit(self, commit: Commit) -> None:
        """Raises WireError for a commit that does not follow."""
        if self._seat is None or self._tree is None:
            raise WireError(FORBIDDEN, f"session {self._number} has not begun")
        if commit.at != len(self._tree.committed):
            raise WireError(VIOLATION, f"tokens committed at {commit.at} after {len(self._tree.committed)}")
        self._tree.commit(commit.at, commit.tokens)
        self._seat.commit(commit)

    def leave(self) -> None:
        self._guests.agents.leave(self)
        if seat := self._seat:
            self._stand_up()
            seat.close()

    def _stand_up(self) -> None:
        self._link = self._seat = None
        self._guests.metrics.remote_sessions.dec()
