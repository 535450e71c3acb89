"""A desktop in virtual time: the agent's real choices (edge_agent/drafting/), a profile's draft times.

As in edge_agent/drafting/loop.py it never waits for an answer, and what arrives during a look is read after it. It
serves one stream at a time; what it learnt of its own pace it keeps.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.draft_threshold import DraftThreshold
from edgedraft.wire import Commit, Draft, Open
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Meters
from loadtest.seed.profiles import Device


class Desktop:
    """`send` takes what it has drafted to its link."""

    def __init__(
        self, clock: Clock, device: Device, drafts: Drafts, meters: Meters, send: Callable[[Draft], None]
    ) -> None:
        self._clock, self._device, self._drafts, self._meters, self._send = clock, device, drafts, meters, send
        self._pace = DraftThreshold()
        self._session: DraftSession | None = None
        self._chat: Chat | None = None
        self._lookup = PromptLookupDrafter()
        self._inbox: list[tuple[Open, Chat] | Commit] = []
        self._busy = False
        self._committed_at: float | None = None

    def open(self, opened: Open, chat: Chat) -> None:
        self._receive((opened, chat))

    def commit(self, message: Commit) -> None:
        self._receive(message)

    def _receive(self, message: tuple[Open, Chat] | Commit) -> None:
        self._inbox.append(message)
        if not self._busy:
            self._turn()

    def _turn(self) -> None:
        for message in self._inbox:
            if isinstance(message, tuple):
                self._open(*message)
            elif self._session and message.session == self._session.number:
                self._commit(self._session, message)
        self._inbox.clear()
        session, chat = self._session, self._chat
        if session is None or chat is None or self._busy:
            return
        session.min_path = self._pace.min_path
        if (wanted := session.next_request()) is None:
            return
        node, point = wanted
        look = self._drafts.ask(chat, point, self._lookup)
        self._busy = True

        def forward_done() -> None:
            self._busy = False
            self._meters.desktops += self._device.look
            self._pace.record_forward(self._device.look)
            if self._session is session and (draft := session.add_proposal(node, self._drafts.answer(look))):
                self._send(draft)
            self._turn()

        self._clock.after(self._device.look, forward_done)

    def _open(self, message: Open, chat: Chat) -> None:
        if self._session:
            self._lookup.close(self._session.number)
        self._session, self._chat = DraftSession(message, message.epoch + 1), chat
        self._lookup.open(message.session)
        self._committed_at = None
        self._busy = True
        takes = self._device.prompt(len(message.prompt) + len(message.committed))
        self._meters.desktops += takes

        def read() -> None:
            self._busy = False
            self._turn()

        self._clock.after(takes, read)

    def _commit(self, session: DraftSession, message: Commit) -> None:
        drafts = session.commit(message)
        if self._committed_at is not None:
            self._pace.record_commit(self._clock.now - self._committed_at)
        self._committed_at = self._clock.now
        for draft in drafts:
            self._send(draft)
        if message.finish is not None:
            self._lookup.close(session.number)
            self._session = None
