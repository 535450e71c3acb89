"""The drafting loop: one thread that drafts for all sessions and never waits for a verifier.

Each iteration handles all messages that have arrived, takes the best draft requests of all sessions, passes them to the
drafter in one batch, and posts the new draft nodes. How many are worth one forward is decided in forward_size.py. A
mismatch therefore wastes one iteration at most. With nothing worth drafting the thread sleeps until a message arrives.
An error in one session ends only that session's drafting.

The loop executes nothing that it receives, and logs no text or token ids. An ended session's output is passed to the
drafter (see past_outputs.py); otherwise sessions live in memory until they end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.drafters.interface import Drafter, DraftRequest, Proposal
from edge_agent.drafting.draft_session import DraftSession
from edge_agent.drafting.draft_threshold import DraftThreshold
from edge_agent.drafting.forward_size import MAX_REQUESTS_PER_SESSION, ForwardCosts, select_requests
from edge_agent.drafting.mailbox import Incoming, Mailbox, MailboxClosed
from edge_agent.drafting.stats import DraftStats, StatsCollector
from edge_agent.traces import DraftSpans
from edgedraft.wire import MAX_AGENT_TEXT, Close, Commit, Draft, Open

log = logging.getLogger(__name__)

UNACCEPTABLE = "a token outside the vocabulary, or too long a text"


@dataclass(frozen=True, slots=True)
class DraftingLimits:
    """Token ids must be below `vocab_size`; sessions beyond `max_sessions` at a time are not drafted for."""

    vocab_size: int
    max_sessions: int


class DraftingLoop:
    """Drafts for the sessions of one attachment: messages from a mailbox, proposals from a drafter."""

    def __init__(
        self,
        mailbox: Mailbox,
        drafter: Drafter,
        limits: DraftingLimits,
        stats: StatsCollector,
        may_draft: Callable[[], bool] = lambda: True,
        spans: DraftSpans | None = None,
    ) -> None:
        """While `may_draft()` is False, commits are applied and nothing is drafted; it is checked in every iteration.

        `spans` is None without tracing.
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
        self._forward_costs = ForwardCosts()

    def run(self) -> None:
        """Run until the mailbox is closed. On every exit path the mailbox is closed and all sessions are ended."""
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
        token_lists = [*message.prompt, *message.committed], [*message.sampling.logit_bias], message.prediction
        if not all(self._acceptable(0, tokens) for tokens in token_lists):
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
        """Whether the tokens are in the vocabulary and fit after a text of `length` tokens."""
        return length + len(tokens) <= MAX_AGENT_TEXT and max(tokens, default=0) < self._limits.vocab_size

    def _draft(self) -> bool:
        """One forward of the drafter for all sessions; False when none of them had anything worth drafting."""
        candidates: dict[int, list[tuple[float, int]]] = {}
        for number, session in self._sessions.items():
            session.min_path = self._threshold.min_path
            if found := session.candidates(MAX_REQUESTS_PER_SESSION):
                candidates[number] = found
        nodes = [
            (self._sessions[number], node) for number, node in select_requests(candidates, self._forward_costs.seconds)
        ]
        if not nodes:
            return False
        drafts: list[Draft] = []
        requests = [session.request_at(node) for session, node in nodes]
        start = time.perf_counter()
        proposals = self._propose(requests)
        seconds = time.perf_counter() - start
        self._threshold.record_forward(seconds)
        if all(proposal is not None and proposal.complete for proposal in proposals):
            self._forward_costs.record(len(requests), seconds)
        by_session: dict[int, list[tuple[int, Proposal]]] = {}
        for (session, node), proposal in zip(nodes, proposals, strict=True):
            if proposal is not None:
                by_session.setdefault(session.number, []).append((node, proposal))
        for number, proposed in by_session.items():
            if session := self._sessions.get(number):
                drafts += session.add_proposals(proposed)
        self._post(drafts)
        return True

    def _post(self, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self._stats.add(draft.session, DraftStats(drafted=len(draft.tokens)))
        self._mailbox.post(drafts)

    def _propose(self, requests: Sequence[DraftRequest]) -> list[Proposal | None]:
        """The drafter's proposals. After an error each request is retried alone; None for a session that broke it."""
        try:
            return [*self._drafter.propose(requests)]
        except Exception:
            if len(requests) > 1:
                alone = (self._propose([r]) if r.session in self._sessions else [None] for r in requests)
                return [proposal for proposals in alone for proposal in proposals]
            log.exception("session %d broke the drafter", requests[0].session)
            self._end(requests[0].session, "ended")
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
