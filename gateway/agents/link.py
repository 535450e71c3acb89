"""One attached agent: the sessions that it drafts for, and checks of what it sends.

Nothing from an agent is trusted: a draft reaches a session only under a number that was opened on this link. Which
sessions an agent gets is decided by registry.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from edgedraft.devices import OTHER
from edgedraft.links.link import Frame
from edgedraft.links.outbox import Outbox
from edgedraft.links.session_table import SessionTable
from edgedraft.links.settings import AGENT_ENDPOINT, LinkSettings
from edgedraft.observability.tracing import Tracing
from edgedraft.tree import DraftViolation
from edgedraft.wire import (
    BAD_FRAME,
    FORBIDDEN,
    MAX_AGENT_TEXT,
    MOVE,
    VIOLATION,
    Close,
    Commit,
    Hello,
    Open,
    WireError,
    decode_from_agent,
)
from gateway.accounts import Owner
from gateway.agents.budget import AgentBudget
from gateway.agents.slot import AgentListener
from gateway.agents.stats import AgentStats, SlotStats
from gateway.observability.traces import SlotSpan


class AgentLink:
    """An agent that drafts for sessions of `owner`, at most `max_sessions` at once.

    `agent` names this attachment and changes with each; `identity` names the agent to verifiers and stays the same.
    `device` is one of edgedraft/devices.py.
    """

    def __init__(
        self,
        agent: str,
        identity: str,
        owner: Owner,
        fingerprint: str,
        max_sessions: int,
        name: str = "",
        drafter: str = "",
        device: str = OTHER,
        tracing: Tracing | None = None,
        settings: LinkSettings = AGENT_ENDPOINT,
    ) -> None:
        self.agent = agent
        self.name = name
        self.drafter = drafter
        self.device = device
        self.stats = AgentStats()
        self.identity = identity
        self.owner = owner
        self.fingerprint = fingerprint
        self.max_sessions = max_sessions
        self.outbox = Outbox(settings)
        self._sessions: SessionTable[AgentListener] = SessionTable()
        self._slots: dict[int, SlotStats] = {}  # by session number; only sessions that were sent to the agent
        self._on_slot_freed: Callable[[], None] | None = None
        self._tracing = tracing
        self._clock = _ShareClock()
        self._budget = AgentBudget()
        self._move_requested = asyncio.Event()

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return len(self._sessions)

    @property
    def has_free_slot(self) -> bool:
        return self.running < self.max_sessions

    def on_slot_freed(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever a session ends here."""
        self._on_slot_freed = callback

    def reserve(self, listener: AgentListener) -> LocalSlot:
        """Take a slot without sending the session to the agent; `restart` sends it."""
        self._clock.advance(self.running)
        return LocalSlot(self, self._sessions.add(listener))

    def open(self, listener: AgentListener, message: Open) -> LocalSlot:
        """Take a slot and have the agent draft from where `message` says the session is."""
        slot = self.reserve(listener)
        slot.restart(message)
        return slot

    def start_drafting(self, number: int, message: Open) -> None:
        """Send the session to the agent, unless its text is longer than any that agents draft for."""
        if self._sessions.find(number) is None or len(message.prompt) + len(message.committed) > MAX_AGENT_TEXT:
            return
        if number not in self._slots:
            span = SlotSpan(self._tracing, message, self.drafter) if self._tracing else None
            self._slots[number] = SlotStats(self.stats, span)
        self._budget.allow(message.window)
        self.put(replace(message, session=number, prediction=message.prediction[:MAX_AGENT_TEXT]))

    async def take_frame(self, frame: Frame) -> None:
        """Pass a frame's drafts to their sessions. Raises WireError, after which the link must be closed."""
        self._budget.take_frame(len(frame))
        messages = decode_from_agent(frame)
        self._budget.take_messages(len(messages))
        for message in messages:
            if isinstance(message, Hello):
                raise WireError(BAD_FRAME, "a second hello")
            try:
                listener = self._sessions.find(message.session)
            except KeyError:
                raise WireError(FORBIDDEN, f"session {message.session} was never opened here") from None
            if listener is None:
                continue
            if message.session not in self._slots:
                raise WireError(FORBIDDEN, f"session {message.session} has not begun here")
            try:
                listener.on_draft(message)
            except DraftViolation as violation:
                raise WireError(VIOLATION, str(violation)) from None
            self._slots[message.session].record_draft(message)

    def commit(self, number: int, commit: Commit) -> None:
        """Send the agent what was committed in a session."""
        if slot := self._slots.get(number):
            slot.record_commit(commit)
        self._budget.allow(commit.window)
        self.put(replace(commit, session=number))

    def shared_seconds(self) -> float:
        """Seconds of agent time of a session that has been open since the agent attached."""
        if self.running:
            self._clock.advance(self.running)
        return self._clock.seconds

    def put(self, message: Struct) -> None:
        self.outbox.put(message)

    def end(self, number: int) -> None:
        """End a session, unless it has ended already."""
        self._clock.advance(self.running)
        if self._sessions.remove(number):
            if slot := self._slots.pop(number, None):
                slot.end(lost=False)
                self.put(Close(number))
            if self._on_slot_freed:
                self._on_slot_freed()

    def request_move(self) -> None:
        """Have the link closed with MOVE, so that the agent attaches to another gateway."""
        self._move_requested.set()

    async def move_requested(self) -> None:
        """Wait for request_move. Raises WireError MOVE then."""
        await self._move_requested.wait()
        raise WireError(MOVE, "this gateway is going; attach again, another one answers")

    def lost(self) -> None:
        """The connection is closed: every session loses its agent."""
        self._clock.advance(self.running)
        self._on_slot_freed = None
        for slot in self._slots.values():
            slot.end(lost=True)
        self._slots.clear()
        for listener in self._sessions.clear():
            listener.on_agent_lost()


class _ShareClock:
    """The running sum of elapsed time divided by the number of open sessions: a session's equal share of the agent."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._advanced_at = time.monotonic()

    def advance(self, running: int) -> None:
        """Count the time since the last call, in which `running` sessions were open."""
        now = time.monotonic()
        self.seconds += (now - self._advanced_at) / max(1, running)
        self._advanced_at = now


class LocalSlot:
    """slot.AgentSlot at an agent of this gateway."""

    def __init__(self, link: AgentLink, number: int) -> None:
        self.identity = link.identity
        self.owner = link.owner
        self._opened_at = link.shared_seconds()
        self._link = link
        self._number = number

    def restart(self, message: Open) -> None:
        self._link.start_drafting(self._number, message)

    def seconds(self) -> float:
        return self._link.shared_seconds() - self._opened_at

    def commit(self, commit: Commit) -> None:
        self._link.commit(self._number, commit)

    def close(self) -> None:
        self._link.end(self._number)
