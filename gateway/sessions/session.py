"""A session: one generation from its first try at a verifier to its last token.

It outlives agents and verifiers. The committed tokens are its own copy of what the verifier said; with them, prompt and
sampling parameters it can begin again at another verifier and by the determinism of the choice of tokens go on as if
nothing had happened. Links call in (on_commit, on_draft, ...), one reader takes the tokens out (run); all in one event
loop, and no call in waits for anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from edgedraft.observability.logs import event
from edgedraft.tree import DraftTree, DraftViolation
from edgedraft.wire import (
    CLOSE_FAILED,
    CLOSE_OVERLOADED,
    CLOSE_REFUSED,
    MAX_WINDOW,
    Commit,
    Draft,
    FinishReason,
    Open,
    Queued,
    Sampling,
    TokenLogprobs,
)
from gateway.accounts import Owner
from gateway.agents.registry import AgentRegistry
from gateway.agents.slot import AgentHost, AgentSlot
from gateway.model.served_model import ServedModel
from gateway.observability.metrics import Metrics, SessionMetrics
from gateway.sessions.speculation_stats import SpeculationStats
from gateway.verifiers.hedging import HedgedSession
from gateway.verifiers.link import VerifierLink, VerifierSession
from gateway.verifiers.pool import NoCapacity, NoVerifier, VerifierPool

log = logging.getLogger(__name__)

FIRST_WINDOW = 16  # nodes that an agent may draft before the verifier's first commit tells how many

_BACKOFF = wait_random_exponential(multiplier=0.05, max=0.5)


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What one session is to generate, and whose it is. max_tokens counts output tokens.

    logprobs, prediction, trace and priority are wire.Open's.
    """

    model: ServedModel
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    eos: tuple[int, ...]
    owner: Owner
    tenant: str
    edge: bool
    logprobs: int = -1
    prediction: tuple[int, ...] = ()
    trace: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Emission:
    """The next committed tokens; `finish` is set on the last. `logprobs` has one entry a token where the job asks."""

    tokens: list[int]
    finish: FinishReason | None
    logprobs: Sequence[TokenLogprobs] = ()


class RequestRejected(Exception):
    """No verifier can ever serve this; the text, a verifier's, says why."""


class Unavailable(Exception):
    """No verifier served this in time; it may be worth trying again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """All verifiers have as much to do as they take."""


class _VerifierLost(Exception):
    """The verifier ended the session, or must be given up."""


class Session:
    """Run it once; closing the iterator of `run` cancels it everywhere at once."""

    def __init__(
        self,
        job: SessionRequest,
        verifiers: VerifierPool,
        agents: AgentRegistry,
        metrics: Metrics,
        open_timeout: float,
        silence_timeout: float,
    ) -> None:
        self.stats = SpeculationStats()
        self._job = job
        self._verifiers = verifiers
        self._agents = agents
        self._metrics = metrics
        self._meter = SessionMetrics(metrics, job.model.name, job.owner)
        self._open_timeout = open_timeout
        self._silence_timeout = silence_timeout
        self._tree = DraftTree(MAX_WINDOW)
        self._inbox: asyncio.Queue[Commit | Queued | _VerifierLost | RequestRejected] = asyncio.Queue()
        self._lease: VerifierSession | HedgedSession | None = None
        self._given_up: VerifierLink | None = None
        self._full: dict[VerifierLink, float] = {}  # those that turned it away before its first token, and until when
        self._seat: AgentSlot | None = None
        self._missed = False  # drafts came that the next verifier will not have seen
        self._known_epoch = 0  # drafts of this epoch and older are not relayed: the verifier lacks part of them

    @property
    def owner(self) -> Owner:
        return self._job.owner

    @property
    def fingerprint(self) -> str:
        return self._job.model.fingerprint

    @property
    def vocab_size(self) -> int:
        return self._job.model.vocab_size

    async def run(self) -> AsyncGenerator[Emission]:
        """The committed tokens as they come, until one emission has a finish.

        Raises Refused or Unavailable; what was emitted before that is right all the same.
        """
        self._meter.began()
        try:
            if self._job.edge:
                self._agents.seek(self)
            while True:
                commit = await self._first_commit()
                try:
                    while True:
                        yield Emission(commit.tokens, commit.finish, commit.logprobs)
                        if commit.finish:
                            return
                        commit = await self._next_commit()
                except _VerifierLost as lost:
                    self._metrics.reopened.inc()
                    at = len(self._tree.committed)
                    event(log, "session reopens", level=logging.WARNING, at=at, reason=str(lost))
        finally:
            self._meter.ended()
            self._agents.leave(self)
            if self._seat:
                self.stats.agent_seconds += self._seat.seconds()
                self._seat.close()
            if self._lease:
                self._lease.close()

    async def _first_commit(self) -> Commit:
        """Open at a verifier, at another if that fails, until one commits. Raises Refused or Unavailable.

        A request that is new is turned away when all are full; one that has begun is tried until patience ends.
        """
        failing_since: float | None = None

        def out_of_patience(state: RetryCallState) -> bool:
            nonlocal failing_since
            failing_since = failing_since or time.monotonic()
            return time.monotonic() - failing_since >= self._open_timeout

        attempts = AsyncRetrying(
            stop=out_of_patience,
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
        raise AssertionError("retrying ends with a result or an exception")

    def _open(self) -> None:
        """Raises NoVerifier, NoRoom or Crowded."""
        message = replace(
            self._message(),
            sampling=self._job.sampling,
            agent=self._seat.agent if self._seat else "",
            salt=self._job.tenant,
            logprobs=self._job.logprobs,
            priority=self._job.priority,
        )
        try:
            self._lease = self._verifiers.open(self, self._job.model, message, self._given_up, self._full)
        except NoCapacity as error:
            if self._tree.committed:
                raise
            raise Overloaded(str(error), min(self._full.values(), default=1.0)) from error
        if self._missed:
            self._replant()

    async def _next_commit(self) -> Commit:
        """Raises Refused, Crowded or _VerifierLost, after which no lease is held."""
        event = await self._next_event(self._silence_timeout)
        if isinstance(event, Queued):
            with self._meter.queued():
                event = await self._next_event(self._open_timeout)
            if event is None:
                raise Overloaded(str(self._give_up(f"no room in {self._open_timeout:g} seconds")))
        if event is None:
            raise self._give_up(f"no commit in {self._silence_timeout:g} seconds", its_fault=True)
        if isinstance(event, Exception):
            raise event
        assert isinstance(event, Commit), "nobody is put into a queue twice"
        return event

    async def _next_event(self, seconds: float) -> Commit | Queued | _VerifierLost | RequestRejected | None:
        """None when there is none for so long."""
        try:
            async with asyncio.timeout(seconds):
                return await self._inbox.get()
        except TimeoutError:
            return None if self._inbox.empty() else self._inbox.get_nowait()

    def _give_up(self, reason: str, its_fault: bool = False) -> _VerifierLost:
        if self._lease:
            if its_fault:
                self._lease.report_failure()
            self._given_up = self._lease.link
            self._lease.close()
            self._lease = None
        self._missed = self._missed or self._tree.epoch > 0
        return _VerifierLost(reason)

    def on_commit(self, commit: Commit) -> None:
        if wrong := self._wrong_with(commit):
            self._inbox.put_nowait(self._give_up(wrong, its_fault=True))
            return
        if self._lease:
            self._lease.link.health.record_success()
        self._tree.commit(commit.at, commit.tokens)
        self.stats.add(commit, paired=self._seat is not None)
        self._meter.committed(commit)
        if self._seat:
            bare = replace(commit, logprobs=[])
            self._seat.commit(replace(bare, nodes=0, depth=0, accepted=0) if commit.verifier_drafted else bare)
        self._inbox.put_nowait(commit)

    def _wrong_with(self, commit: Commit) -> str:
        """What no correct verifier commits; empty where there is nothing."""
        at, tokens = len(self._tree.committed), commit.tokens
        if commit.at != at or at + len(tokens) > self._job.max_tokens:
            return f"{len(tokens)} tokens committed at {commit.at} after {at}"
        if not tokens and not commit.finish:
            return "a commit of nothing"
        if tokens and max(tokens) >= self._job.model.vocab_size:
            return f"a token outside the vocabulary of {self._job.model.vocab_size}"
        if self._job.logprobs >= 0 and (
            len(commit.logprobs) != len(tokens)
            or any(len(entry.tokens) != len(entry.logprobs) for entry in commit.logprobs)
        ):
            return f"log-probabilities that do not go with {len(tokens)} tokens"
        return ""

    def on_queued(self, ahead: int) -> None:
        self._inbox.put_nowait(Queued(1, ahead))

    def on_verifier_closed(self, code: str, reason: str, retry_after: float = 0.0) -> None:
        if self._lease and code == CLOSE_OVERLOADED and not self._tree.committed:
            self._full[self._lease.link] = retry_after or 1.0
        lost = self._give_up(f"{code or CLOSE_FAILED}: {reason}")
        # One that joins later may be smaller than the first; then others may still do.
        final = code == CLOSE_REFUSED and not self._tree.committed
        self._inbox.put_nowait(RequestRejected(reason) if final else lost)

    def on_verifier_changed(self) -> None:
        if self._tree.epoch:
            self._replant()

    def on_agent(self, agent: AgentHost) -> None:
        self._seat = agent.open(self, self._message())
        self.stats.agent, self.stats.agent_owner = agent.identity, agent.owner
        if self._lease:
            self._lease.set_agent(agent.identity)

    def on_agent_lost(self) -> None:
        self._metrics.agents_lost.inc()
        if self._seat:
            self.stats.agent_seconds += self._seat.seconds()
        self._seat = None
        if self._lease:
            self._lease.set_agent("")
        self._agents.seek(self)

    def on_draft(self, draft: Draft) -> None:
        """Raises Violation."""
        vocab_size = self._job.model.vocab_size
        if (token := max(draft.tokens)) >= vocab_size:
            raise DraftViolation(f"token {token} is outside the vocabulary of {vocab_size}")
        self._tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)
        if self._lease is None:
            self._missed = True
        elif draft.epoch > self._known_epoch and not self._lease.draft(draft):
            self._replant()

    def _replant(self) -> None:
        """What the agent drafts next would hang from nodes that the verifier has never seen: have it plant anew."""
        self._missed = False
        self._known_epoch = self._tree.epoch
        if self._seat:
            self._seat.restart(self._message())

    def _message(self) -> Open:
        """The session as it stands and as an agent may know it: no text, which a grammar is.

        The link puts its number in.
        """
        return Open(
            session=1,
            prompt=self._job.prompt,
            sampling=replace(self._job.sampling, grammar=""),
            max_tokens=self._job.max_tokens,
            committed=list(self._tree.committed),
            window=FIRST_WINDOW,
            epoch=self._tree.epoch,
            eos=self._job.eos,
            prediction=list(self._job.prediction),
            trace=self._job.trace,
        )
