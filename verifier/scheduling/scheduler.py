"""The scheduler: which sessions and which draft nodes go into the next step, which sessions wait, what was committed.

It holds the state of all sessions. It is synchronous, gets the time as an argument, and neither runs the model nor
sends anything. Queueing is in admission_queue.py, a session's draft is selected in draft_selection.py, waiting for
drafts is decided in draft_wait.py, and the rules themselves are pure functions in policy.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import NgramIndex
from edgedraft.tree import EMPTY_DRAFT, DraftSlice, DraftTree, DraftViolation
from edgedraft.wire import MAX_PRIORITY, MAX_WINDOW, Commit, Draft, Open
from verifier.engine.interface import Engine, Overloaded, Request, RequestRejected, ScheduledSession, StepResult
from verifier.scheduling.admission_queue import AdmissionQueue
from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.draft_selection import DraftSelector
from verifier.scheduling.draft_wait import DraftWait
from verifier.scheduling.forecast import Forecast, queue_wait
from verifier.scheduling.policy import (
    LatencyBudget,
    SelectDraftNodes,
    cost_beside_prefill,
    draft_window,
    prompt_token_budget,
    running_mean,
    select_for_goodput,
)
from verifier.scheduling.session_state import SessionState
from verifier.scheduling.step_costs import StepCosts

RESUMED_RANK = MAX_PRIORITY + 1  # in the admission queue: a session that another verifier began


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of a scheduler.

    `step_tokens`: rows of one step. `verify_nodes`: draft nodes of one session in it. `prompt_delay`: seconds that
    prompts may add to a step while other sessions run. `draft_wait`: seconds that a session may wait for a draft.
    `wait_share`: the share of the time saved by drafts that may be spent on waiting (LatencyBudget).
    `prompt_lookup`: whether the verifier drafts by prompt lookup where no agent's draft is present.
    `max_waiting`: sessions in the admission queue, each for at most `max_wait` seconds.
    """

    step_tokens: int
    verify_nodes: int
    prompt_delay: float
    draft_wait: float
    wait_share: float
    prompt_lookup: bool = True
    max_waiting: int = 64
    max_wait: float = 30.0


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """The next step, empty if none is to run now; then `wake_at` is when to schedule again, None without a limit."""

    scheduled: list[ScheduledSession]
    wake_at: float | None


class Scheduler:
    """Sessions by the engine's keys, in the order of their admission."""

    def __init__(
        self, engine: Engine, limits: SchedulerLimits, select_nodes: SelectDraftNodes = select_for_goodput
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._select_nodes = select_nodes
        self._sessions: dict[int, SessionState] = {}
        self._queue: AdmissionQueue[SessionState] = AdmissionQueue(limits.max_waiting, limits.max_wait)
        self._forecast = Forecast()
        self._may_admit = False  # capacity was freed since the engine rejected the head of the queue
        self._calibrations = Calibrations()
        self.step_costs = StepCosts()
        self._draft_selector = DraftSelector(engine, self._calibrations, limits.verify_nodes)
        self._draft_wait = DraftWait(self.step_costs, self._calibrations, self._draft_selector, limits.draft_wait)

    def __len__(self) -> int:
        """The number of running sessions."""
        return len(self._sessions)

    @property
    def num_waiting(self) -> int:
        """The number of sessions in the admission queue."""
        return len(self._queue)

    def open(self, key: int, message: Open, now: float) -> int | None:
        """Start a session and return None, or queue it and return how many sessions are ahead of it.

        A session that another verifier began is queued ahead of all new ones, however long the expected wait.
        Raises RequestRejected or Overloaded.
        """
        request = Request(
            session=key,
            prompt=tuple(message.prompt),
            sampling=message.sampling,
            max_tokens=message.max_tokens,
            eos=frozenset(message.eos),
            committed=tuple(message.committed),
            salt=message.salt,
            logprobs=message.logprobs,
        )
        if len(message.prediction) > self._engine.context_length:
            raise RequestRejected(
                f"a prediction of {len(message.prediction)} tokens exceeds {self._engine.context_length}"
            )
        if max(message.prediction, default=0) >= self._engine.vocab_size:
            raise RequestRejected(f"a predicted token id is outside the vocabulary of {self._engine.vocab_size}")
        self._engine.validate(request)
        session = SessionState(
            request=request,
            tree=DraftTree(MAX_WINDOW, message.committed, message.epoch),
            token_ids=[*message.prompt, *message.committed],
            num_prompt_tokens=len(message.prompt),
            agent=message.agent,
            latency_budget=LatencyBudget(self._limits.wait_share),
            lookup_index=NgramIndex() if self._limits.prompt_lookup else None,
            prediction=PredictionCursor.from_prediction(message.prediction) if message.prediction else None,
        )
        if session.prediction:
            session.prediction.advance(message.committed)
        if not self._queue and self._try_start(key, session):
            return None
        rank = RESUMED_RANK if message.committed else message.priority
        expected_wait = 0.0
        if not message.committed:
            running = (self._remaining_seconds(other) for other in self._sessions.values())
            expected_wait = queue_wait(running, map(self._remaining_seconds, self._queue.ahead_of(rank)))
        return self._queue.enqueue(key, session, rank, now, expected_wait)

    def drop_expired(self, now: float) -> list[tuple[int, Overloaded]]:
        """Queued sessions that were rejected since the last call: displaced by others, or queued for too long."""
        return self._queue.pop_rejected(now)

    def add_draft(self, key: int, message: Draft, now: float) -> None:
        """Add draft nodes that arrived at `now`. Unknown sessions are ignored.

        Raises DraftViolation, after which the session continues without its agent.
        """
        session = self._find_session(key)
        if session is None:
            return
        try:
            if max(message.tokens) >= self._engine.vocab_size:
                raise DraftViolation("a token id is outside the vocabulary")
            session.tree.add(
                message.epoch, message.at, message.first, message.tokens, message.parents, message.confidence
            )
        except DraftViolation:
            self.set_agent(key, "")
            raise
        if session.last_draft_at is not None:
            session.draft_interval = running_mean(session.draft_interval, max(0.0, now - session.last_draft_at))
        session.last_draft_at = now
        if session.has_draft:
            session.wait_expired = False
            if session.without_draft_since is not None:
                delay = max(0.0, now - session.without_draft_since)
                session.draft_delay = running_mean(session.draft_delay, delay)
                self._calibrations.record_draft_delay(session.tree_agent, delay)
                session.without_draft_since = None

    def set_agent(self, key: int, agent: str) -> None:
        """Attach an agent to the session, or detach it with "". Unknown sessions are ignored."""
        if session := self._find_session(key):
            session.agent = agent
            session.tree_agent = agent or session.tree_agent
            session.draft_delay = None
            session.wait_expired = False

    def close(self, key: int) -> None:
        """End a running or queued session. Unknown ones are ignored."""
        if self._queue.remove(key):
            self._may_admit = True  # it may have been the head, and the next one may need less
        if self._sessions.pop(key, None):
            self._engine.close(key)
            self._may_admit = True

    def schedule(self, now: float) -> SchedulerOutput:
        """The next step: every decoding session unless all of them wait for drafts, draft nodes, and prompt chunks."""
        self._admit()
        limits, seconds = self._limits, self.step_costs.seconds
        decoding = [key for key, session in self._sessions.items() if session.num_uncomputed <= 1]
        deadlines = self._draft_wait.deadlines(self._sessions, decoding, now)
        num_tokens = {} if deadlines else dict.fromkeys(decoding, 1)
        running = len(num_tokens)
        # Without other running sessions a prompt delays none.
        delay = limits.prompt_delay if decoding else float("inf")
        budget = prompt_token_budget(running, max(0, limits.step_tokens - running), delay, seconds)
        for key, session in self._sessions.items():
            if session.num_uncomputed > 1 and budget > 0:
                num_tokens[key] = min(session.num_uncomputed, budget)
                budget -= num_tokens[key]
        # A step that completes a prompt also verifies what was drafted meanwhile.
        sampling = [key for key, count in num_tokens.items() if count >= self._sessions[key].num_uncomputed]
        drafts = {
            key: draft
            for key in sampling
            if self._may_verify(key) and len(draft := self._draft_selector.select(self._sessions[key]))
        }
        probabilities = {
            key: self._calibrations.get(self._sessions[key].draft_source).path_probabilities(draft)
            for key, draft in drafts.items()
        }
        total = sum(num_tokens.values())
        nodes = self._select_nodes(
            drafts,
            probabilities,
            running,
            len(sampling),
            limits.step_tokens - total,
            cost_beside_prefill(total - running, running, seconds),
        )
        scheduled = [
            ScheduledSession(key, count, drafts[key].subset(nodes[key]) if nodes.get(key) else EMPTY_DRAFT)
            for key, count in num_tokens.items()
        ]
        wake_times = list(deadlines.values())
        if (queue_deadline := self._queue.next_deadline) is not None:
            wake_times.append(queue_deadline)
        return SchedulerOutput(scheduled, min(wake_times, default=None))

    def update(
        self, scheduled: Sequence[ScheduledSession], results: Sequence[StepResult], began: float, now: float
    ) -> dict[int, Commit]:
        """Apply a step's results; returns one Commit per session that has new tokens or has ended.

        A Commit's session number is the engine's key; the sender replaces it.
        """
        drafts = {item.session: item.draft for item in scheduled}
        rows = sum(item.num_tokens for item in scheduled)
        nodes = sum(len(draft) for draft in drafts.values())
        self.step_costs.record(rows + nodes, now - began)
        plain_seconds = self.step_costs.seconds(rows)
        seconds_per_node = max(0.0, self.step_costs.seconds(rows + nodes) - plain_seconds) / max(1, nodes)
        commits: dict[int, Commit] = {}
        committed = sum(len(result.tokens) for result in results)
        self._forecast.record_step(len(self._sessions), committed, now - began)
        for result in results:
            session = self._sessions[result.session]
            session.num_uncomputed = result.num_uncomputed
            session.compute_seconds += result.seconds
            if not result.tokens and result.finish is None:
                continue
            if session.wait_started_at is not None:
                waited = max(0.0, began - session.wait_started_at)
                session.latency_budget = session.latency_budget.after_wait(waited)
                session.wait_started_at = None
            session.token_ids.extend(result.tokens)
            if session.prediction:
                session.prediction.advance(result.tokens)
            session.latency_budget = session.latency_budget.after_step(
                result.accepted, seconds_per_node * result.nodes, plain_seconds
            )
            at = len(session.tree.committed)
            session.tree.commit(at, result.tokens)
            self._record_draft_outcome(session, result, drafts, now)
            commits[result.session] = self._commit(session, result, at)
            session.num_cached_tokens, session.compute_seconds = 0, 0.0
            if result.finish:
                self._forecast.record_finished(session.num_output_tokens)
                self.close(result.session)
        return commits

    def _record_draft_outcome(
        self, session: SessionState, result: StepResult, drafts: dict[int, DraftSlice], now: float
    ) -> None:
        """Learn what the step shows of the session's drafts, after its commit."""
        session.last_draft_at = None
        if result.nodes:
            self._calibrations.record_verification(session.draft_source, drafts[result.session], result.tokens)
            if not session.verifier_drafted:
                rate = result.accepted / min(result.accepted + 1, result.depth)
                session.acceptance_rate = running_mean(session.acceptance_rate, rate)
        if session.agent:
            agent_nodes = 0 if session.verifier_drafted else result.nodes
            self._calibrations.record_step(session.agent, agent_nodes, len(result.tokens), session.has_draft)
        if session.without_draft_since is None and not session.has_draft:
            session.without_draft_since = now

    def _commit(self, session: SessionState, result: StepResult, at: int) -> Commit:
        delay_steps = (session.draft_delay or 0.0) / self.step_costs.decode_seconds(len(self._sessions))
        return Commit(
            session=result.session,
            at=at,
            tokens=list(result.tokens),
            window=draft_window(session.acceptance_rate, delay_steps, MAX_WINDOW),
            nodes=result.nodes,
            depth=result.depth,
            accepted=result.accepted,
            seconds=session.compute_seconds,
            finish=result.finish,
            cached=session.num_cached_tokens,
            verifier_drafted=result.nodes > 0 and session.verifier_drafted,
            logprobs=list(result.logprobs),
        )

    def _admit(self) -> None:
        """Start queued sessions from the head while the engine has capacity for them."""
        while self._may_admit and (head := self._queue.peek()):
            self._may_admit = self._try_start(*head)
            if self._may_admit:
                self._queue.remove(head[0])

    def _try_start(self, key: int, session: SessionState) -> bool:
        """Open the session at the engine. Returns False if the engine has no capacity for it."""
        try:
            session.num_uncomputed = self._engine.open(session.request)
        except Overloaded:
            return False
        session.num_cached_tokens = len(session.token_ids) - session.num_uncomputed
        self._sessions[key] = session
        return True

    def _remaining_seconds(self, session: SessionState) -> float:
        """Expected seconds until the session ends, its own wait in the queue not included."""
        prefill = 0.0
        if self.step_costs.has_measurements:
            prefill = self.step_costs.seconds(session.num_uncomputed or len(session.token_ids))
        return prefill + self._forecast.remaining_seconds(session.request.max_tokens - session.num_output_tokens)

    def _find_session(self, key: int) -> SessionState | None:
        return self._sessions.get(key) or self._queue.get(key)

    def _may_verify(self, key: int) -> bool:
        plain_seconds = self.step_costs.decode_seconds(len(self._sessions))
        return self._sessions[key].latency_budget.may_verify_drafts(plain_seconds)
