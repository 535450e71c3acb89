"""The drafting loop: one thread that drafts for every session and never waits for an answer.

Each turn applies all messages that have arrived, asks every session for its best place to go on, expands all of these
in one call of the drafter, and posts what is new. So a miss wastes one step at most. With nothing worth drafting the
thread sleeps until a message comes. What breaks in one session ends the drafting of that session alone.

The loop executes nothing it is sent and writes no text or token id anywhere; sessions live in memory until they end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.drafters.interface import Drafter, DraftRequest, Proposal
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.draft_threshold import DraftThreshold
from edge_agent.drafting.mailbox import Incoming, Mailbox, MailboxClosed
from edge_agent.drafting.stats import DraftStats, StatsCollector
from edge_agent.traces import DraftSpans
from edgedraft.wire import MAX_AGENT_TEXT, Close, Commit, Draft, Open

log = logging.getLogger(__name__)

UNACCEPTABLE = "a token outside the vocabulary, or too long a text"


@dataclass(frozen=True, slots=True)
class DraftingLimits:
    """Token ids lie below `vocab_size`; more than `max_sessions` at once are not drafted."""

    vocab_size: int
    max_sessions: int


class DraftingLoop:
    """Everything between a mailbox and a drafter, for as long as one attachment lasts."""

    def __init__(
        self,
        mailbox: Mailbox,
        drafter: Drafter,
        limits: DraftingLimits,
        stats: StatsCollector,
        may_draft: Callable[[], bool] = lambda: True,
        spans: DraftSpans | None = None,
    ) -> None:
        """While `may_draft` says no, sessions are followed and not drafted; it is asked at every message.

        `spans` is None where nothing is traced.
        """
        self._mailbox = mailbox
        self._may_draft = may_draft
        self._drafter = drafter
        self._limits = limits
        self._stats = stats
        self._spans = spans
        self._sessions: dict[int, DraftSession] = {}
        self._committed_at: dict[int, float] = {}
        self._threshold = DraftThreshold()

    def run(self) -> None:
        """Until the mailbox is closed. However it ends, the mailbox is closed and no session is left open."""
        busy = False
        try:
            while True:
                for message in self._mailbox.receive(wait=not busy):
                    self._handle(message)
                busy = self._may_draft() and self._draft()
        except MailboxClosed:
            pass
        finally:
            self._mailbox.close()
            for number in list(self._sessions):
                self._end(number, "detached")

    def _handle(self, message: Incoming) -> None:
        match message:
            case Open():
                self._open(message)
            case Commit() if message.session in self._sessions:
                self._commit(message)
            case Close():
                self._end(message.session, "closed")
            case _:
                pass  # a late commit of a session that has ended here

    def _open(self, message: Open) -> None:
        known = self._sessions.get(message.session)
        if known is None and len(self._sessions) >= self._limits.max_sessions:
            log.warning("session %d is not drafted: %d are open already", message.session, len(self._sessions))
            return
        named = [*message.prompt, *message.committed], [*message.sampling.logit_bias], message.prediction
        if not all(self._acceptable(0, tokens) for tokens in named):
            log.warning("session %d is not drafted: %s", message.session, UNACCEPTABLE)
            self._end(message.session, "ended")
            return
        epoch = max(message.epoch, known.tree.epoch if known else 0) + 1
        self._sessions[message.session] = DraftSession(message, epoch)
        self._drafter.open(message.session)
        self._stats.begin(message.session)
        if self._spans:
            self._spans.session_started(message)

    def _commit(self, message: Commit) -> None:
        session = self._sessions[message.session]
        if not self._acceptable(session.length, message.tokens):
            self._end(message.session, f"ended: {UNACCEPTABLE}")
            return
        try:
            drafts = session.commit(message)
        except ValueError as error:
            self._end(message.session, f"ended: {error}")
            return
        now = time.monotonic()
        if before := self._committed_at.get(message.session):
            self._threshold.record_commit(now - before)
        self._committed_at[message.session] = now
        self._stats.add(message.session, DraftStats(accepted=message.accepted, committed=len(message.tokens)))
        self._post(drafts)
        if message.finish is not None:
            self._end(message.session, f"finished ({message.finish})")

    def _acceptable(self, length: int, tokens: Sequence[int]) -> bool:
        """Whether these tokens may follow a text of that length."""
        return length + len(tokens) <= MAX_AGENT_TEXT and max(tokens, default=0) < self._limits.vocab_size

    def _draft(self) -> bool:
        """One step for all sessions; False when none of them had anything worth drafting."""
        asked: list[tuple[DraftSession, int]] = []
        points: list[DraftRequest] = []
        for session in self._sessions.values():
            session.min_path = self._threshold.min_path
            wanted = session.next_request()
            if wanted is not None:
                asked.append((session, wanted[0]))
                points.append(wanted[1])
        if not points:
            return False
        drafts = []
        began = time.perf_counter()
        answers = self._propose(points)
        self._threshold.record_forward(time.perf_counter() - began)
        for (session, node), guesses in zip(asked, answers, strict=True):
            draft = session.add_proposal(node, guesses) if guesses is not None else None
            if draft is not None:
                drafts.append(draft)
        self._post(drafts)
        return True

    def _post(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self._stats.add(draft.session, DraftStats(drafted=len(draft.tokens)))
        self._mailbox.post(drafts)

    def _propose(self, points: Sequence[DraftRequest]) -> list[Proposal | None]:
        """The drafter's answers. When it breaks each point is tried alone, and who breaks it again is ended (None)."""
        try:
            return [*self._drafter.propose(points)]
        except Exception:
            if len(points) > 1:
                return [answer for point in points for answer in self._propose([point])]
            log.exception("session %d broke the drafter", points[0].session)
            self._end(points[0].session, "ended")
            return [None]

    def _end(self, number: int, how: str) -> None:
        session = self._sessions.pop(number, None)
        if session is None:
            return
        self._committed_at.pop(number, None)
        self._drafter.close(number, session.tree.committed)
        counts = self._stats.end(number)
        if self._spans:
            self._spans.session_ended(number, how, counts)
        log.info(
            "session %d %s: %d tokens drafted, %d accepted of %d committed",
            number, how, counts.drafted, counts.accepted, counts.committed,
        )  # fmt: skip
