"""A session: the generation of one choice, from the first attempt at a verifier to the last token.

A session outlives its agents and verifiers. It keeps a copy of the committed tokens; with them, the prompt and the
sampling parameters it can reopen at another verifier, and because sampling is deterministic the text continues
unchanged. Links call the `on_...` methods; one reader takes the tokens from `run`. Everything runs in one event loop,
and no `on_...` method waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from edgedraft.observability.logs import event
from edgedraft.tree import DraftTree, DraftViolation
from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_GRAMMAR,
    CLOSE_OVERLOADED,
    CLOSE_REFUSED,
    MAX_WINDOW,
    Commit,
    Draft,
    Open,
    Queued,
)
from gateway.accounts import Owner
from gateway.agents.registry import AgentRegistry
from gateway.agents.slot import AgentHost, AgentSlot
from gateway.observability.metrics import Metrics, SessionMetrics
from gateway.records.speculation_stats import SpeculationStats
from gateway.sessions.errors import GrammarFailed, Overloaded, RequestRejected, SessionError, Unavailable
from gateway.sessions.inbox import Inbox
from gateway.sessions.request import SessionRequest
from gateway.verifiers.hedging import HedgedSession
from gateway.verifiers.link import VerifierLink, VerifierSession
from gateway.verifiers.pool import NoCapacity, NoVerifier, VerifierPool

log = logging.getLogger(__name__)

FIRST_WINDOW = 16  # nodes that an agent may draft before the verifier's first commit sets the window

_BACKOFF = wait_random_exponential(multiplier=0.05, max=0.5)


class _Progress:
    """The verifier works on the session, though it commits nothing yet."""


class _VerifierLost(Exception):
    """The verifier ended the session, or the session left it."""


class Session:
    """Call `run` once; closing its iterator cancels the session at the verifier and at the agent."""

    def __init__(
        self,
        request: SessionRequest,
        verifiers: VerifierPool,
        agents: AgentRegistry,
        metrics: Metrics,
        open_timeout: float,
        silence_timeout: float,
    ) -> None:
        self.stats = SpeculationStats()
        self._request = request
        self._verifiers = verifiers
        self._agents = agents
        self._metrics = metrics
        self._meter = SessionMetrics(metrics, request.model.name, request.owner)
        self._open_timeout = open_timeout
        self._silence_timeout = silence_timeout
        self._tree = DraftTree(MAX_WINDOW)
        self._inbox: Inbox[Commit | Queued | _Progress | _VerifierLost | SessionError] = Inbox()
        self._verifier_session: VerifierSession | HedgedSession | None = None
        self._avoid: VerifierLink | None = None
        self._overloaded: dict[VerifierLink, float] = {}  # rejected it before its first token; retry-after in seconds
        self._slot: AgentSlot | None = None
        self._drafts_lost = False  # drafts have arrived that the next verifier will not receive
        self._last_stale_epoch = 0  # drafts up to this epoch are not relayed: the verifier lacks some of their parents

    @property
    def owner(self) -> Owner:
        return self._request.owner

    @property
    def fingerprint(self) -> str:
        return self._request.model.fingerprint

    @property
    def vocab_size(self) -> int:
        return self._request.model.vocab_size

    async def run(self) -> AsyncGenerator[Commit]:
        """Yields the commits, the last one with `finish` set. Raises RequestRejected, GrammarFailed or Unavailable.

        Commits yielded before an exception stay valid.
        """
        self._meter.record_start()
        try:
            if self._request.edge:
                self._agents.seek(self)
            while True:
                commit = await self._first_commit()
                try:
                    while True:
                        yield commit
                        if commit.finish:
                            return
                        commit = await self._next_commit()
                except _VerifierLost as lost:
                    self._metrics.reopened.inc()
                    at = len(self._tree.committed)
                    event(log, "session reopens", level=logging.WARNING, at=at, reason=str(lost))
        finally:
            self._inbox.close()
            self._meter.record_end()
            self._agents.leave(self)
            if self._slot:
                self.stats.agent_seconds += self._slot.seconds()
                self._slot.close()
            if self._verifier_session:
                self._verifier_session.close()

    async def _first_commit(self) -> Commit:
        """Opens at one verifier after another until one commits. Raises RequestRejected, GrammarFailed or Unavailable.

        When all verifiers are full a new request is rejected; one that has begun is retried until `open_timeout`.
        """
        failing_since: float | None = None

        def timed_out(state: RetryCallState) -> bool:
            nonlocal failing_since
            failing_since = failing_since or time.monotonic()
            return time.monotonic() - failing_since >= self._open_timeout

        attempts = AsyncRetrying(
            stop=timed_out,
            wait=_BACKOFF,
            retry=retry_if_exception_type((_VerifierLost, NoVerifier, NoCapacity)),
            sleep=self._verifiers.wait_for_join,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    self._open()
                    return await self._next_commit()
        except (_VerifierLost, NoVerifier) as error:
            raise Unavailable(str(error)) from error
        except NoCapacity as error:
            raise Overloaded(str(error)) from error
        raise AssertionError("the retry loop returns or raises")

    def _open(self) -> None:
        """Raises NoVerifier, NoCapacity or Overloaded."""
        message = replace(
            self._open_message(),
            sampling=self._request.sampling,
            agent=self._slot.identity if self._slot else "",
            salt=self._request.tenant,
            logprobs=self._request.logprobs,
            priority=self._request.priority,
            share=self._request.share,
            request=self._request.request,
        )
        try:
            self._verifier_session = self._verifiers.open(
                self, self._request.model, message, self._avoid, self._overloaded
            )
        except NoCapacity as error:
            if self._tree.committed:
                raise
            raise Overloaded(str(error), min(self._overloaded.values(), default=1.0)) from error
        self.stats.record_open()
        if self._drafts_lost:
            self._restart_drafting()

    async def _next_commit(self) -> Commit:
        """Raises _VerifierLost or a SessionError; afterwards no verifier session is open."""
        message = await self._next_message(self._silence_timeout)
        if isinstance(message, Queued):
            with self._meter.track_queued():
                message = await self._next_message(self._open_timeout)
            if message is None:
                raise Overloaded(str(self._leave_verifier(f"no room in {self._open_timeout:g} seconds")))
        if message is None:
            raise self._leave_verifier(f"no commit in {self._silence_timeout:g} seconds", at_fault=True)
        if isinstance(message, Exception):
            raise message
        assert isinstance(message, Commit), "a verifier queues a session once"
        return message

    async def _next_message(self, seconds: float) -> Commit | Queued | _VerifierLost | SessionError | None:
        """Returns None after `seconds` without a message and without progress."""
        while isinstance(message := await self._inbox.get(seconds), _Progress):
            pass
        return message

    def _leave_verifier(self, reason: str, at_fault: bool = False) -> _VerifierLost:
        """Closes the session there; `at_fault` counts as a failure of that verifier."""
        if self._verifier_session:
            if at_fault:
                self._verifier_session.report_failure()
            self._avoid = self._verifier_session.link
            self._verifier_session.close()
            self._verifier_session = None
        self._drafts_lost = self._drafts_lost or self._tree.epoch > 0
        return _VerifierLost(reason)

    def on_commit(self, commit: Commit) -> None:
        attempt = self._verifier_session.attempt if self._verifier_session else 0
        if fault := self._find_fault(commit):
            self.stats.add_seconds(commit.seconds, attempt)
            self._inbox.put(self._leave_verifier(fault, at_fault=True))
            return
        if self._verifier_session:
            self._verifier_session.link.health.record_success()
        self._tree.commit(commit.at, commit.tokens)
        self.stats.add(commit, self._slot is not None, attempt)
        self._meter.record_commit(commit)
        if self._slot:
            bare = replace(commit, logprobs=[])
            self._slot.commit(replace(bare, nodes=0, depth=0, accepted=0) if commit.verifier_drafted else bare)
        self._inbox.put(commit)

    def _find_fault(self, commit: Commit) -> str:
        """Returns what is invalid about a commit, "" if nothing is."""
        at, tokens = len(self._tree.committed), commit.tokens
        if commit.at != at or at + len(tokens) > self._request.max_tokens:
            return f"{len(tokens)} tokens committed at {commit.at} after {at}"
        if not tokens and not commit.finish:
            return "a commit of nothing"
        if tokens and max(tokens) >= self._request.model.vocab_size:
            return f"a token outside the vocabulary of {self._request.model.vocab_size}"
        if self._request.logprobs >= 0 and (
            len(commit.logprobs) != len(tokens)
            or any(len(entry.tokens) != len(entry.logprobs) for entry in commit.logprobs)
        ):
            return f"log-probabilities that do not go with {len(tokens)} tokens"
        return ""

    def on_progress(self, computed: int) -> None:
        if self._inbox.is_empty:  # else a message waits already
            self._inbox.put(_Progress())

    def on_queued(self, ahead: int) -> None:
        self._inbox.put(Queued(1, ahead))

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        if self._verifier_session and code == CLOSE_OVERLOADED and not self._tree.committed:
            self._overloaded[self._verifier_session.link] = retry_after or 1.0
        lost = self._leave_verifier(f"{code or CLOSE_FAILED}: {reason}")
        if code == CLOSE_GRAMMAR:  # it would fail in the same place anywhere
            self._inbox.put(GrammarFailed(reason))
            return
        # With committed tokens, another verifier accepted it: this one may only have smaller limits.
        final = code == CLOSE_REFUSED and not self._tree.committed
        self._inbox.put(RequestRejected(reason) if final else lost)

    def on_verifier_changed(self) -> None:
        if self._tree.epoch:
            self._restart_drafting()

    def on_agent(self, agent: AgentHost) -> None:
        self._slot = agent.open(self, self._open_message())
        self.stats.agent, self.stats.agent_owner, self.stats.agent_device = agent.identity, agent.owner, agent.device
        if self._verifier_session:
            self._verifier_session.set_agent(agent.identity)

    def on_agent_lost(self) -> None:
        self._metrics.agents_lost.inc()
        if self._slot:
            self.stats.agent_seconds += self._slot.seconds()
        self._slot = None
        if self._verifier_session:
            self._verifier_session.set_agent("")
        self._agents.seek(self)

    def on_draft(self, draft: Draft) -> None:
        """Raises DraftViolation."""
        vocab_size = self._request.model.vocab_size
        if (token := max(draft.tokens)) >= vocab_size:
            raise DraftViolation(f"token {token} is outside the vocabulary of {vocab_size}")
        self._tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)
        if self._verifier_session is None:
            self._drafts_lost = True
        elif draft.epoch > self._last_stale_epoch and not self._verifier_session.draft(draft):
            self._restart_drafting()

    def _restart_drafting(self) -> None:
        """Has the agent start a new epoch: its next drafts would extend nodes that the verifier has not received."""
        self._drafts_lost = False
        self._last_stale_epoch = self._tree.epoch
        if self._slot:
            self._slot.restart(self._open_message())

    def _open_message(self) -> Open:
        """The session's current state as an agent may see it, without the grammar. The link sets the number."""
        return Open(
            session=1,
            prompt=self._request.prompt,
            sampling=replace(self._request.sampling, grammar=""),
            max_tokens=self._request.max_tokens,
            committed=list(self._tree.committed),
            window=FIRST_WINDOW,
            epoch=self._tree.epoch,
            eos=self._request.eos,
            prediction=list(self._request.prediction),
            trace=self._request.trace,
        )


@dataclass(frozen=True, slots=True)
class SessionFactory:
    """Makes the sessions of one gateway. Timeouts are in seconds.

    `open_timeout` bounds the search for a verifier, `silence_timeout` the time between two commits.
    """

    verifiers: VerifierPool
    agents: AgentRegistry
    metrics: Metrics
    open_timeout: float
    silence_timeout: float

    def create(self, request: SessionRequest) -> Session:
        return Session(request, self.verifiers, self.agents, self.metrics, self.open_timeout, self.silence_timeout)
