"""The scheduler: which sessions and which draft nodes go into the next step, which sessions wait, what was committed.

It holds the state of all sessions. It is synchronous, gets the time as an argument, and neither runs the model nor
sends anything. Queueing is in admission_queue.py, a session's draft is selected in draft_selection.py, waiting for
drafts is decided in draft_wait.py, and the rules themselves are pure functions in policy.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import NgramIndex
from edgedraft.tree import EMPTY_DRAFT, DraftSlice, DraftTree, DraftViolation
from edgedraft.wire import MAX_PRIORITY, MAX_WINDOW, Commit, Draft, Open
from verifier.engine.interface import (
    Engine,
    Overloaded,
    Request,
    RequestRejected,
    ScheduledSession,
    StepResult,
    count_prompt_tokens,
)
from verifier.scheduling.admission_queue import AdmissionQueue
from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.draft_selection import DraftSelector
from verifier.scheduling.draft_tracker import DraftTracker
from verifier.scheduling.draft_wait import DraftWait
from verifier.scheduling.fair_shares import NO_SHARE, FairShares, Share, divide_prompt_tokens
from verifier.scheduling.forecast import Forecast, queue_wait
from verifier.scheduling.policy import (
    LatencyBudget,
    SelectDraftNodes,
    cost_beside_prefill,
    draft_window,
    select_for_goodput,
    step_prompt_tokens,
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
    `max_waiting`: sessions in the admission queue, each for at most `max_wait` seconds. `max_sessions`: sessions that
    run at once, None for as many as the engine takes. Beyond them, a session starts only if none of its key runs.
    """

    step_tokens: int
    verify_nodes: int
    prompt_delay: float
    draft_wait: float
    wait_share: float
    prompt_lookup: bool = True
    max_waiting: int = 64
    max_wait: float = 30.0
    max_sessions: int | None = None


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
        self._shares = FairShares()
        self._reserved: dict[int, str] = {}  # sessions beyond max_sessions, and their tenants
        self._queue: AdmissionQueue[SessionState] = AdmissionQueue(limits.max_waiting, limits.max_wait, self._shares)
        self._forecast = Forecast()
        self._may_admit = False  # capacity was freed since the engine rejected the head of the queue
        calibrations = Calibrations()
        self.step_costs = StepCosts()
        self._draft_selector = DraftSelector(engine, calibrations, limits.verify_nodes)
        self._drafts = DraftTracker(calibrations, self._draft_selector)
        self._draft_wait = DraftWait(self.step_costs, calibrations, limits.draft_wait)
        self._step_ended_at: float | None = None  # None if no session was left to run

    def __len__(self) -> int:
        """The number of running sessions."""
        return len(self._sessions)

    @property
    def num_waiting(self) -> int:
        """The number of sessions in the admission queue."""
        return len(self._queue)

    def open(self, key: int, message: Open, now: float, prepared: object = None) -> int | None:
        """Start a session and return None, or queue it and return how many sessions are ahead of it.

        `prepared` is what Engine.precompile returned for it.
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
            prepared=prepared,
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
            # Without a key there is one share, so sessions are served in order of arrival.
            share=Share(message.salt, message.share) if message.share else NO_SHARE,
        )
        if session.prediction:
            session.prediction.advance(message.committed)
        self._shares.arrive(session.share)
        try:
            return self._start_or_enqueue(key, message, session, now)
        except Overloaded:
            self._shares.leave(session.share)
            raise

    def _start_or_enqueue(self, key: int, message: Open, session: SessionState, now: float) -> int | None:
        full = self._limits.max_sessions is not None and len(self._sessions) >= self._limits.max_sessions
        # One that takes a reserved place overtakes only sessions that may not have it.
        if (full or not self._queue) and self._may_start(session) and self._try_start(key, session):
            return None
        rank = RESUMED_RANK if message.committed else message.priority
        tokens, expected_wait = self._expected_tokens(session), 0.0
        if not message.committed:
            running = (self._remaining_seconds(other) for other in self._sessions.values())
            expected_wait = queue_wait(
                running, map(self._remaining_seconds, self._queue.ahead_of(rank, session.share, tokens))
            )
        waited = len(self._queue)
        ahead = self._queue.enqueue(key, session, rank, now, expected_wait, session.share, tokens)
        if waited and not ahead:
            self._may_admit = True  # the engine has not been asked for the new head
        return ahead

    def num_cached_tokens(self, key: int) -> int:
        """Tokens of a running session's text that were in the prefix cache; 0 once a commit has reported them."""
        return self._sessions[key].num_cached_tokens

    def drop_expired(self, now: float) -> list[tuple[int, Overloaded]]:
        """Queued sessions that were rejected since the last call: displaced by others, or queued for too long."""
        rejected = self._queue.pop_rejected(now)
        for _, _, session in rejected:
            self._shares.leave(session.share)
        return [(key, reason) for key, reason, _ in rejected]

    def add_draft(self, key: int, message: Draft, now: float) -> None:
        """Add draft nodes that arrived at `now`. Unknown sessions are ignored.

        Raises DraftViolation, after which the session continues without its agent.
        """
        session = self._find_session(key)
        if session is None:
            return
        is_new_epoch = message.epoch > session.tree.epoch
        try:
            if max(message.tokens) >= self._engine.vocab_size:
                raise DraftViolation("a token id is outside the vocabulary")
            session.tree.add(
                message.epoch, message.at, message.first, message.tokens, message.parents, message.confidence
            )
        except DraftViolation:
            self.set_agent(key, "")
            raise
        self._drafts.record_arrival(session, message, is_new_epoch, now)

    def set_agent(self, key: int, agent: str) -> None:
        """Attach an agent to the session, or detach it with "". Unknown sessions are ignored."""
        if session := self._find_session(key):
            session.agent = agent
            session.tree_agent = agent or session.tree_agent
            session.evaluated_draft = None

    def close(self, key: int) -> None:
        """End a running or queued session. Unknown ones are ignored."""
        if waiting := self._queue.get(key):
            self._queue.remove(key)
            self._shares.leave(waiting.share)
            self._may_admit = True  # it may have been the head, and the next one may need less
        if session := self._sessions.pop(key, None):
            self._engine.close(key)
            self._reserved.pop(key, None)
            self._shares.stop(session.share, session.tokens_taken - session.expected_tokens)
            self._shares.leave(session.share)
            self._may_admit = True

    def schedule(self, now: float) -> SchedulerOutput:
        """The next step: all decoding sessions with draft nodes, and prompt chunks; none while drafts are awaited."""
        self._admit()
        decoding = [key for key, session in self._sessions.items() if session.num_uncomputed <= 1]
        rate = self._forecast.time_value(len(self._sessions))
        start = self._start_time(decoding, rate, now)
        scheduled: list[ScheduledSession] = []
        if start <= now:
            prompts = [(key, s.share, s.num_uncomputed) for key, s in self._sessions.items() if s.num_uncomputed > 1]
            chunks = divide_prompt_tokens(self._prompt_tokens(len(decoding), prompts, rate), prompts)
            num_tokens = dict.fromkeys(decoding, 1) | chunks
            drafts = self._select_drafts(num_tokens, len(decoding), rate, now)
            scheduled = [
                ScheduledSession(key, count, drafts.get(key, EMPTY_DRAFT)) for key, count in num_tokens.items()
            ]
        wake_times = [start] if start > now else []
        if (queue_deadline := self._queue.next_deadline) is not None:
            wake_times.append(queue_deadline)
        return SchedulerOutput(scheduled, min(wake_times, default=None))

    def _prompt_tokens(self, running: int, prompts: Sequence[tuple[int, Share, int]], rate: float) -> int:
        """How many prompt tokens the next step computes beside `running` decoding sessions."""
        return step_prompt_tokens(
            [tokens for _, _, tokens in prompts],
            running,
            rows=running + round(self._drafts.usual_nodes),
            sessions=len(self._sessions),
            room=max(0, self._limits.step_tokens - running),
            delay=self._limits.prompt_delay if running else inf,  # with none running a prompt delays no other session
            rate=rate,
            seconds=self.step_costs.seconds,
        )

    def _select_drafts(
        self, num_tokens: Mapping[int, int], running: int, rate: float, now: float
    ) -> dict[int, DraftSlice]:
        """The draft nodes to verify in a step of these tokens by session, of which `running` decode."""
        # A step that completes a prompt also verifies what was drafted meanwhile.
        sampling = [key for key, count in num_tokens.items() if count >= self._sessions[key].num_uncomputed]
        evaluated = {key: self._draft_selector.evaluate(self._sessions[key]) for key in sampling}
        drafts = {key: draft for key, (draft, _) in evaluated.items() if len(draft)}
        probabilities = {key: evaluated[key][1] for key in drafts}
        total = sum(num_tokens.values())
        seconds = cost_beside_prefill(total - running, running, self.step_costs.seconds)
        nodes = self._select_nodes(
            drafts, probabilities, running, len(sampling), self._limits.step_tokens - total, seconds, rate
        )
        selected = {key: drafts[key].subset(indices) for key, indices in nodes.items() if indices}
        count = sum(map(len, selected.values()))
        self._drafts.record_selection(probabilities, nodes, beside_prompts=total > running)
        seconds_per_node = (seconds(running + count) - seconds(running)) / max(1, count)
        plain_seconds = self.step_costs.decode_seconds(len(self._sessions))
        return {
            key: draft
            for key, draft in selected.items()
            if self._sessions[key].budget_at(now).may_verify_drafts(seconds_per_node * len(draft), plain_seconds)
        }

    def _start_time(self, decoding: Sequence[int], rate: float, now: float) -> float:
        """When the next step of the `decoding` sessions is to begin (step_start.py)."""
        values = {key: self._drafts.value(self._sessions[key]) for key in decoding}
        return self._draft_wait.start_time(self._sessions, decoding, values, self._drafts.row_price, rate, now)

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
        prompt_tokens = count_prompt_tokens(scheduled)
        prompt_seconds = self.step_costs.prompt_seconds(prompt_tokens, rows - prompt_tokens + nodes)
        seconds = now - (self._step_ended_at or began)
        self._forecast.record_step(len(self._sessions), committed, seconds, prompt_seconds)
        for result in results:
            session = self._sessions[result.session]
            session.num_uncomputed = result.num_uncomputed
            session.compute_seconds += result.seconds
            if not result.tokens and result.finish is None:
                continue
            session.latency_budget, session.wait_started_at = session.budget_at(began), None
            session.token_ids.extend(result.tokens)
            if session.prediction:
                session.prediction.advance(result.tokens)
            session.latency_budget = session.latency_budget.after_step(
                result.accepted, seconds_per_node * result.nodes, plain_seconds
            )
            at = len(session.tree.committed)
            session.tree.commit(at, result.tokens)
            self._drafts.record_commit(session, result, drafts[result.session], now)
            commits[result.session] = self._commit(session, result, at)
            session.num_cached_tokens, session.compute_seconds = 0, 0.0
            if result.finish:
                self._forecast.record_finished(session.num_output_tokens)
                self.close(result.session)
        self._step_ended_at = now if self._sessions else None
        return commits

    def _commit(self, session: SessionState, result: StepResult, at: int) -> Commit:
        session.window = draft_window(self._drafts.usual_nodes / max(1, len(self._sessions)), MAX_WINDOW)
        return Commit(
            session=result.session,
            at=at,
            tokens=list(result.tokens),
            window=session.window,
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
        while self._may_admit:
            # With all places taken, the first that may have a reserved one.
            head = next(((key, one) for key, one in self._queue.ordered() if self._may_start(one)), None)
            self._may_admit = head is not None and self._try_start(*head)
            if head and self._may_admit:
                self._queue.remove(head[0])

    def _may_start(self, session: SessionState) -> bool:
        """Whether a place is free, or one that is reserved for keys of which nothing runs.

        A tenant with sessions has one reserved place at most, however many keys it has.
        """
        if self._limits.max_sessions is None or len(self._sessions) < self._limits.max_sessions:
            return True
        share = session.share
        if self._shares.is_newcomer(share):
            return True
        return self._shares.runs_nothing(share) and share.tenant not in self._reserved.values()

    def _try_start(self, key: int, session: SessionState) -> bool:
        """Open the session at the engine. Returns False if the engine has no capacity for it."""
        try:
            session.num_uncomputed = self._engine.open(session.request)
        except Overloaded:
            return False
        session.num_cached_tokens = len(session.token_ids) - session.num_uncomputed
        if self._limits.max_sessions is not None and len(self._sessions) >= self._limits.max_sessions:
            self._reserved[key] = session.share.tenant
        session.num_tokens_at_start = session.num_cached_tokens
        session.expected_tokens = self._expected_tokens(session)
        self._shares.start(session.share, session.expected_tokens)
        self._sessions[key] = session
        return True

    def _remaining_seconds(self, session: SessionState) -> float:
        """Expected seconds until the session ends, its own wait in the queue not included."""
        prefill = 0.0
        if self.step_costs.has_measurements:
            prefill = self.step_costs.seconds(session.num_uncomputed or len(session.token_ids))
        return prefill + self._forecast.remaining_seconds(session.request.max_tokens - session.num_output_tokens)

    def _expected_tokens(self, session: SessionState) -> float:
        """Tokens that the session may compute, what is cached not included."""
        output = self._forecast.expected_output(session.request.max_tokens - session.num_output_tokens)
        return len(session.token_ids) - session.num_cached_tokens + output

    def _find_session(self, key: int) -> SessionState | None:
        return self._sessions.get(key) or self._queue.get(key)
