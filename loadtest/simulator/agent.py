"""An agent in virtual time: the real drafting decisions (edge_agent/drafting), draft forwards at a device's speed.

As in edge_agent/drafting/loop.py it never waits for a commit, and messages that arrive during a draft forward are read
after it. It serves one stream at a time and keeps its draft threshold between streams.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.draft_threshold import DraftThreshold
from edgedraft.wire import Commit, Draft, Open
from loadtest.simulator.clock import Clock
from loadtest.simulator.measurement import Meters
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat


class SimulatedAgent:
    """`send` puts a draft on the agent's link."""

    def __init__(self, clock: Clock, edge: EdgeProfile, meters: Meters, send: Callable[[Draft], None]) -> None:
        self._clock, self._meters, self._send = clock, meters, send
        self._device, self._model = edge.device, edge.draft_model
        self._threshold = DraftThreshold()
        self._session: DraftSession | None = None
        self._chat: RecordedChat | None = None
        self._lookup = PromptLookupDrafter() if edge.prompt_lookup else None
        self._inbox: list[tuple[Open, RecordedChat] | Commit] = []
        self._busy = False
        self._committed_at: float | None = None

    def open(self, opened: Open, chat: RecordedChat) -> None:
        self._receive((opened, chat))

    def commit(self, commit: Commit) -> None:
        self._receive(commit)

    def _receive(self, message: tuple[Open, RecordedChat] | Commit) -> None:
        self._inbox.append(message)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        """Reads the inbox and starts the next draft forward, if there is a node worth drafting from."""
        for message in self._inbox:
            if isinstance(message, tuple):
                self._open(*message)
            elif self._session and message.session == self._session.number:
                self._commit(self._session, message)
        self._inbox.clear()
        session, chat = self._session, self._chat
        if session is None or chat is None or self._busy:
            return
        session.min_path = self._threshold.min_path
        wanted = session.candidates(self._device.max_requests)
        if not wanted:
            return
        pending = [
            (node, self._model.start_forward(chat, session.request_at(node), self._lookup)) for _, node in wanted
        ]
        self._busy = True

        def finished() -> None:
            self._busy = False
            self._meters.device_seconds += self._device.forward_seconds
            self._threshold.record_forward(self._device.forward_seconds)
            if self._session is session:
                for draft in session.add_proposals([(node, self._model.finish_forward(p)) for node, p in pending]):
                    self._send(draft)
            self._next()

        self._clock.call_later(self._device.forward_seconds, finished)

    def _open(self, message: Open, chat: RecordedChat) -> None:
        if self._session:
            self._close_lookup(self._session)
        self._session, self._chat = DraftSession(message, message.epoch + 1), chat
        if self._lookup:
            self._lookup.open(message.session)
        self._committed_at = None
        self._busy = True
        seconds = self._device.prefill_seconds(len(message.prompt) + len(message.committed))
        self._meters.device_seconds += seconds

        def prefilled() -> None:
            self._busy = False
            self._next()

        self._clock.call_later(seconds, prefilled)

    def _commit(self, session: DraftSession, message: Commit) -> None:
        drafts = session.commit(message)
        if self._committed_at is not None:
            self._threshold.record_commit(self._clock.now - self._committed_at)
        self._committed_at = self._clock.now
        for draft in drafts:
            self._send(draft)
        if message.finish is not None:
            self._close_lookup(session)
            self._session = None

    def _close_lookup(self, session: DraftSession) -> None:
        if self._lookup:
            self._lookup.close(session.number)
