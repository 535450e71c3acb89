"""One attached agent: the sessions it drafts for, and what it may send.

It takes nothing on trust: a draft reaches a session only under a number that was opened on this very link. Which
sessions an agent gets is agents.py's choice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from edgedraft.links.outbox import OUTBOX_MESSAGES, Outbox, SessionTable
from edgedraft.observability.tracing import Tracing
from edgedraft.tree import DraftViolation
from edgedraft.wire import (
    BAD_FRAME,
    FORBIDDEN,
    MAX_AGENT_TEXT,
    MAX_FRAME_TO_AGENT,
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
    """`owner` is whose sessions it may see; `max_sessions` how many it takes at once.

    `identity` names it to verifiers, the same whenever this agent attaches.
    """

    def __init__(
        self,
        agent: str,
        identity: str,
        owner: Owner,
        fingerprint: str,
        max_sessions: int,
        outbox_limit: int = OUTBOX_MESSAGES,
        name: str = "",
        drafter: str = "",
        tracing: Tracing | None = None,
    ) -> None:
        self.agent = agent
        self.name = name
        self.drafter = drafter
        self.stats = AgentStats()
        self.identity = identity
        self.owner = owner
        self.fingerprint = fingerprint
        self.max_sessions = max_sessions
        self.outbox = Outbox(outbox_limit, MAX_FRAME_TO_AGENT)
        self._sessions: SessionTable[AgentListener] = SessionTable()
        self._on_room: Callable[[], None] | None = None
        self._tracing = tracing
        self._seats: dict[int, SlotStats] = {}
        self._clock = _ShareClock()
        self._budget = AgentBudget()
        self._dismissed = asyncio.Event()

    @property
    def running(self) -> int:
        return len(self._sessions)

    @property
    def has_free_slot(self) -> bool:
        return self.running < self.max_sessions

    def on_slot_freed(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever a session ends here."""
        self._on_room = call

    def reserve(self, listener: AgentListener) -> LocalSlot:
        """A seat of which the agent learns when the session begins there (restart)."""
        self._clock.advance(self.running)
        return LocalSlot(self, self._sessions.add(listener))

    def open(self, listener: AgentListener, message: Open) -> LocalSlot:
        seat = self.reserve(listener)
        seat.restart(message)
        return seat

    def start_drafting(self, number: int, message: Open) -> None:
        """Have the agent draft for this session from where `message` says it is, unless no agent would."""
        if self._sessions.find(number) is None or len(message.prompt) + len(message.committed) > MAX_AGENT_TEXT:
            return
        if number not in self._seats:
            span = SlotSpan(self._tracing, message, self.drafter) if self._tracing else None
            self._seats[number] = SlotStats(self.stats, span)
        self._budget.allow(message.window)
        self.put(replace(message, session=number, prediction=message.prediction[:MAX_AGENT_TEXT]))

    def deliver(self, frame: bytes | str) -> None:
        """Hand a frame's drafts to their sessions. Raises WireError, after which the link must end."""
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
            if message.session not in self._seats:
                raise WireError(FORBIDDEN, f"session {message.session} has not begun here")
            try:
                listener.on_draft(message)
            except DraftViolation as violation:
                raise WireError(VIOLATION, str(violation)) from None
            self._seats[message.session].drafted(message)

    def commit(self, number: int, commit: Commit) -> None:
        """Tell the agent what was committed in its session."""
        if seat := self._seats.get(number):
            seat.committed(commit)
        self._budget.allow(commit.window)
        self.put(replace(commit, session=number))

    def shared_seconds(self) -> float:
        """What one session's share of this agent comes to by now, had it been here from the first."""
        if self.running:
            self._clock.advance(self.running)
        return self._clock.seconds

    def put(self, message: Struct) -> None:
        self.outbox.put(message)

    def end(self, number: int) -> None:
        """End a session, unless it has ended already."""
        self._clock.advance(self.running)
        if self._sessions.remove(number):
            if seat := self._seats.pop(number, None):
                seat.end(lost=False)
                self.put(Close(number))
            if self._on_room:
                self._on_room()

    def request_move(self) -> None:
        """Have the link end, and the agent attach elsewhere."""
        self._dismissed.set()

    async def move_requested(self) -> None:
        """Wait for ever, or until it is. Raises WireError MOVE then."""
        await self._dismissed.wait()
        raise WireError(MOVE, "this gateway is going; attach again, another one answers")

    def lost(self) -> None:
        """The connection is gone: tell every session."""
        self._clock.advance(self.running)
        self._on_room = None
        for seat in self._seats.values():
            seat.end(lost=True)
        self._seats.clear()
        for listener in self._sessions.clear():
            listener.on_agent_lost()


class _ShareClock:
    """How long a session that was always here would have had the agent, if those here at once share it equally."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._at = time.monotonic()

    def advance(self, running: int) -> None:
        """Up to now, `running` sessions having been here since the last call."""
        now = time.monotonic()
        self.seconds += (now - self._at) / max(1, running)
        self._at = now


class LocalSlot:
    """One session's place at an agent of this gateway: seat.Seat."""

    def __init__(self, link: AgentLink, number: int) -> None:
        self.agent = link.identity
        self.owner = link.owner
        self._began = link.shared_seconds()
        self._link = link
        self._number = number

    def restart(self, message: Open) -> None:
        self._link.start_drafting(self._number, message)

    def seconds(self) -> float:
        return self._link.shared_seconds() - self._began

    def commit(self, commit: Commit) -> None:
        self._link.commit(self._number, commit)

    def close(self) -> None:
        self._link.end(self._number)
