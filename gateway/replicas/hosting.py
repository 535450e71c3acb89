"""The host replica's side: sessions of another replica that are drafted for by agents of this one.

Each waits in the registry like a session of this gateway, so it gets an agent of its own owner only, and is relayed
once it has a slot. Drafts are checked here against a copy of the session's tree, as the agent that sends an invalid one
is attached here.
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

MAX_REMOTE_SESSIONS = 1 << 16  # of one replica, waiting or with a slot
USAGE_SECONDS = 0.5  # between two reports of a session's share of the agent's time


class RemoteSessions:
    """The sessions of one requesting replica; what it is sent goes into `outbox`."""

    def __init__(self, agents: AgentRegistry, metrics: Metrics, outbox: Outbox) -> None:
        self.outbox = outbox
        self.agents = agents
        self.metrics = metrics
        self._last = 0
        self._sessions: dict[int, RemoteSession] = {}

    def deliver(self, messages: list[ToHost]) -> None:
        """Raises WireError for what no correct replica sends."""
        for message in messages:
            if isinstance(message, RequestSlot):
                self._add(message)
                continue
            session = self._sessions.get(message.session)
            if session is None:
                if message.session > self._last:
                    raise WireError(FORBIDDEN, f"no slot was requested for session {message.session}")
            elif isinstance(message, Open):
                session.start(message)
            elif isinstance(message, Commit):
                session.commit(message)
            else:
                self.end(message.session)

    def end(self, number: int) -> None:
        """The requesting replica wants no agent for this session any more."""
        if session := self._sessions.pop(number, None):
            session.leave()

    def report_agent_lost(self, number: int, reason: str) -> None:
        """The session has lost its agent: report it to the requesting replica."""
        if self._sessions.pop(number, None):
            self.outbox.put(Close(number, reason=reason))

    def end_all(self) -> None:
        for number in list(self._sessions):
            self.end(number)

    def _add(self, message: RequestSlot) -> None:
        if message.session <= self._last:
            raise WireError(FORBIDDEN, f"a slot was requested for session {message.session} before")
        self._last = message.session
        if len(self._sessions) >= MAX_REMOTE_SESSIONS:
            self.outbox.put(Close(message.session, reason="too many sessions"))
            return
        session = self._sessions[message.session] = RemoteSession(self, message)
        self.agents.wait(session)
        if not session.has_slot:
            self.outbox.put(SlotQueued(message.session))


class RemoteSession:
    """One session of another replica: a registry.WaitingSession, and a slot.AgentListener once it has a slot."""

    def __init__(self, sessions: RemoteSessions, message: RequestSlot) -> None:
        self._sessions = sessions
        self._number = message.session
        self._owner = message.tenant, message.owner
        self._fingerprint = message.fingerprint
        self._vocab_size = message.vocab_size
        self._agent: AgentLink | None = None
        self._slot: LocalSlot | None = None
        self._tree: DraftTree | None = None
        self._usage_sent_at = 0.0

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
    def has_slot(self) -> bool:
        return self._slot is not None

    def on_agent(self, agent: AgentHost) -> None:
        assert isinstance(agent, AgentLink), "`wait` pairs with agents of this gateway only"
        self._agent, self._slot = agent, agent.reserve(self)
        self._sessions.metrics.remote_sessions.inc()
        self._sessions.outbox.put(SlotGranted(self._number, agent.identity, agent.running, agent.device))

    def on_agent_lost(self) -> None:
        self._clear_slot()
        self._sessions.report_agent_lost(self._number, "the agent has gone")

    def on_draft(self, draft: Draft) -> None:
        """Raises DraftViolation."""
        assert self._tree is not None, "drafts come after `start` only"
        if (token := max(draft.tokens)) >= self._vocab_size:
            raise DraftViolation(f"token {token} is outside the vocabulary of {self._vocab_size}")
        self._tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)
        outbox = self._sessions.outbox
        outbox.put(replace(draft, session=self._number))
        if self._slot and self._agent and time.monotonic() - self._usage_sent_at > USAGE_SECONDS:
            self._usage_sent_at = time.monotonic()
            outbox.put(SlotUsage(self._number, self._slot.seconds(), self._agent.running))

    def start(self, message: Open) -> None:
        """Have the agent draft. Raises WireError FORBIDDEN if no slot was granted."""
        if self._slot is None:
            raise WireError(FORBIDDEN, f"session {self._number} has no slot")
        if self._tree is None:
            self._tree = DraftTree(MAX_WINDOW, message.committed, message.epoch)
        self._slot.restart(message)

    def commit(self, commit: Commit) -> None:
        """Raises WireError for a commit that does not follow the ones before."""
        if self._slot is None or self._tree is None:
            raise WireError(FORBIDDEN, f"session {self._number} has not begun")
        if commit.at != len(self._tree.committed):
            raise WireError(VIOLATION, f"tokens committed at {commit.at} after {len(self._tree.committed)}")
        self._tree.commit(commit.at, commit.tokens)
        self._slot.commit(commit)

    def leave(self) -> None:
        """Give up the slot, or the place in the queue."""
        self._sessions.agents.leave(self)
        if slot := self._slot:
            self._clear_slot()
            slot.close()

    def _clear_slot(self) -> None:
        self._agent = self._slot = None
        self._sessions.metrics.remote_sessions.dec()
