"""The scheduler: which sessions go into the next step, with which part of their drafts, and who waits until when.

It holds each session's draft tree and its pace. What the client predicted of an output is a draft, too, and used where
it promises more than the agent's. A session that has no agent, or whose agent's drafts are on their way, is drafted for
from its own text, where that repeats itself. Plain synchronous code, told the time; it neither computes nor sends. The
judgements are policy.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import TextIndex
from edgedraft.tree import EMPTY_DRAFT, DraftSlice, DraftTree, DraftViolation
from edgedraft.wire import MAX_PRIORITY, MAX_WINDOW, Commit, Draft, Open, confidence_byte
from verifier.engine.interface import Engine, Overloaded, Request, RequestRejected, ScheduledSession, StepResult
from verifier.scheduling.admission_queue import AdmissionQueue
from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.forecast import Forecast, wait
from verifier.scheduling.policy import (
    LatencyBudget,
    SelectDraftNodes,
    cost_beside_prefill,
    draft_window,
    drafting_pays,
    goodput,
    prompt_rows,
    smoothed,
    worth_ripening,
    worth_waiting,
)
from verifier.scheduling.session_state import Session
from verifier.scheduling.step_costs import StepCosts

# Whose nodes they are that are no agent's; agents' names are hexadecimal.
LOOKUP = "the verifier's own"
PREDICTED = "predicted by clients of "  # and their salt: nobody pays for another tenant's predictions
LATE = 1.5  # intervals between drafts after which the next one is not waited for any more
BEGUN = MAX_PRIORITY + 1  # the rank of a session that has begun elsewhere
LEARNT_AT_ONCE = 256  # tokens of a text that a step takes in for looking up


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds: rows of a step, nodes of one session in it, seconds that prompts may add, seconds to wait for a draft.

    `wait_share` is how much of the time that drafting saves may be spent on waiting (policy.Pace). `prompt_lookup`
    tells whether sessions are drafted for here while no agent's drafts are there. At most `max_waiting` sessions wait
    for room, each `max_wait` seconds.
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
    """The next step's work; where there is none, the time at which somebody's patience ends."""

    work: list[ScheduledSession]
    wake_at: float | None


class Scheduler:
    """Sessions by the engine's keys, in the order in which they were opened."""

    def __init__(self, engine: Engine, limits: SchedulerLimits, choose: SelectDraftNodes = goodput) -> None:
        self._engine = engine
        self._limits = limits
        self._choose = choose
        self._sessions: dict[int, Session] = {}
        self._waiting: AdmissionQueue[Session] = AdmissionQueue(limits.max_waiting, limits.max_wait)
        self._forecast = Forecast()
        self._room = False  # something ended since the first in line was turned away
        self._calibrations = Calibrations()
        self.costs = StepCosts()

    def __len__(self) -> int:
        """Sessions that run."""
        return len(self._sessions)

    @property
    def waiting(self) -> int:
        """Sessions that found no room yet."""
        return len(self._waiting)

    def open(self, key: int, message: Open, now: float) -> int | None:
        """Begin a session, or have it wait; then how many are before it. Raises Refused or Overloaded (engine.py).

        One that has begun elsewhere goes before all that are new, and is not turned away for a long wait.
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
        session = Session(
            request=request,
            tree=DraftTree(MAX_WINDOW, message.committed, message.epoch),
            text=[*message.prompt, *message.committed],
            prompt=len(message.prompt),
            agent=message.agent,
            latency_budget=LatencyBudget(self._limits.wait_share),
            index=TextIndex() if self._limits.prompt_lookup else None,
            prediction=PredictionCursor.over(message.prediction) if message.prediction else None,
        )
        if session.prediction:
            session.prediction.follow(message.committed)
        if not self._waiting and self._begun(key, session):
            return None
        rank = BEGUN if message.committed else message.priority
        running = (self._takes(other) for other in self._sessions.values())
        seconds = 0.0 if message.committed else wait(running, map(self._takes, self._waiting.before(rank)))
        return self._waiting.enter(key, session, rank, now, seconds)

    def drop_expired(self, now: float) -> list[tuple[int, Overloaded]]:
        """Sessions that waited and will not be served, since the last call: others went first, or it took too long."""
        return self._waiting.turned_away(now)

    def add_draft(self, key: int, message: Draft, now: float) -> None:
        """Take drafted nodes in, which came at `now`.

        Raises Violation, after which the session goes on without its agent.
        """
        session = self._known(key)
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
        if session.drafted_at is not None:
            session.interval = smoothed(session.interval, max(0.0, now - session.drafted_at))
        session.drafted_at = now
        if session.has_draft:
            session.lapsed = False
            if session.missed_at is not None:
                delay = max(0.0, now - session.missed_at)
                session.draft_delay = smoothed(session.draft_delay, delay)
                self._calibrations.drafted(session.author, delay)
                session.missed_at = None

    def set_agent(self, key: int, agent: str) -> None:
        """An agent joined the session, or with "" left it."""
        if session := self._known(key):
            session.agent = agent
            session.author = agent or session.author
            session.draft_delay = None
            session.lapsed = False

    def close(self, key: int) -> None:
        """End a session that runs or waits; unknown ones are ignored."""
        if self._waiting.leave(key):
            self._room = True  # it may have been the first, and the next may need less
        if self._sessions.pop(key, None):
            self._engine.close(key)
            self._room = True

    def schedule(self, now: float) -> SchedulerOutput:
        """Every session that decodes or has a draft; those that wait only while they may; prompts with what is left."""
        self._admit()
        limits, seconds = self._limits, self.costs.seconds
        ready = [key for key, session in self._sessions.items() if session.num_uncomputed <= 1]
        waiting = self._waiting_for_drafts(ready, now)
        rows = {} if waiting else dict.fromkeys(ready, 1)
        running = len(rows)
        # With nobody else running a prompt delays nobody.
        delay = limits.prompt_delay if ready else float("inf")
        left = prompt_rows(running, max(0, limits.step_tokens - running), delay, seconds)
        for key, session in self._sessions.items():
            if session.num_uncomputed > 1 and left > 0:
                rows[key] = min(session.num_uncomputed, left)
                left -= rows[key]
        # The forward that ends a prompt checks what was drafted meanwhile.
        ends = [key for key, count in rows.items() if count >= self._sessions[key].num_uncomputed]
        drafts = {key: draft for key in ends if self._may_check(key) and len(draft := self._draft_of(key))}
        total = sum(rows.values())
        chances = {
            key: self._calibrations.of(self._sessions[key].checked).chances(draft) for key, draft in drafts.items()
        }
        nodes = self._choose(
            drafts,
            chances,
            running,
            len(ends),
            limits.step_tokens - total,
            cost_beside_prefill(total - running, running, seconds),
        )
        work = [
            ScheduledSession(key, count, drafts[key].subset(nodes[key]) if nodes.get(key) else EMPTY_DRAFT)
            for key, count in rows.items()
        ]
        patience = [*waiting.values(), *([] if (until := self._waiting.until) is None else [until])]
        return SchedulerOutput(work, min(patience, default=None))

    def update(
        self, work: Sequence[ScheduledSession], progress: Sequence[StepResult], began: float, now: float
    ) -> dict[int, Commit]:
        """Commit what a step made; returns a Commit a session, its session number left to the sender."""
        drafts = {item.session: item.draft for item in work}
        rows = sum(item.num_tokens for item in work)
        nodes = sum(len(draft) for draft in drafts.values())
        self.costs.measured(rows + nodes, now - began)
        plain = self.costs.seconds(rows)
        extra = max(0.0, self.costs.seconds(rows + nodes) - plain) / max(1, nodes)
        commits: dict[int, Commit] = {}
        self._forecast.stepped(len(self._sessions), sum(len(made.tokens) for made in progress), now - began)
        for made in progress:
            session = self._sessions[made.session]
            session.num_uncomputed = made.num_uncomputed
            session.seconds += made.seconds
            if not made.tokens and made.finish is None:
                continue
            if session.waiting_since is not None:
                session.latency_budget = session.latency_budget.after_wait(max(0.0, began - session.waiting_since))
                session.waiting_since = None
            session.text.extend(made.tokens)
            if session.prediction:
                session.prediction.follow(made.tokens)
            session.drafted_at = None
            if made.nodes:
                self._calibrations.observe(session.checked, drafts[made.session], made.tokens)
            if made.nodes and not session.self_drafted:
                session.acceptance = smoothed(session.acceptance, made.accepted / min(made.accepted + 1, made.depth))
            session.latency_budget = session.latency_budget.after_step(made.accepted, extra * made.nodes, plain)
            at = len(session.tree.committed)
            session.tree.commit(at, made.tokens)
            if session.agent:
                nodes_of_its = 0 if session.self_drafted else made.nodes
                self._calibrations.stepped(session.agent, nodes_of_its, len(made.tokens), session.has_draft)
            if session.missed_at is None and not session.has_draft:
                session.missed_at = now
            commits[made.session] = Commit(
                session=made.session,
                at=at,
                tokens=list(made.tokens),
                window=draft_window(
                    session.acceptance, (session.draft_delay or 0.0) / self._plain_seconds(), MAX_WINDOW
                ),
                nodes=made.nodes,
                depth=made.depth,
                accepted=made.accepted,
                seconds=session.seconds,
                finish=made.finish,
                cached=session.cached,
                verifier_drafted=made.nodes > 0 and session.self_drafted,
                logprobs=list(made.logprobs),
            )
            session.cached, session.seconds = 0, 0.0
            if made.finish:
                self._forecast.ended(len(session.text) - session.prompt)
                self.close(made.session)
        return commits

    def _admit(self) -> None:
        while self._room and (first := self._waiting.first()):
            self._room = self._begun(*first)
            if self._room:
                self._waiting.leave(first[0])

    def _begun(self, key: int, session: Session) -> bool:
        """Whether the engine has room for it, which then runs."""
        try:
            session.num_uncomputed = self._engine.open(session.request)
        except Overloaded:
            return False
        session.cached = len(session.text) - session.num_uncomputed
        self._sessions[key] = session
        return True

    def _takes(self, session: Session) -> float:
        """Seconds that it is expected to run from where it is."""
        prompt = self.costs.seconds(session.num_uncomputed or len(session.text)) if self.costs.known else 0.0
        return prompt + self._forecast.takes(session.request.max_tokens - (len(session.text) - session.prompt))

    def _known(self, key: int) -> Session | None:
        return self._sessions.get(key) or self._waiting.get(key)

    def _draft_of(self, key: int) -> DraftSlice:
        """The nodes that may be checked, noting whose they are."""
        session = self._sessions[key]
        author = session.author
        most = min(self._limits.verify_nodes, self._calibrations.of(author).trust)
        if self._engine.supports_trees:
            drafted = session.tree.select(most)
        else:
            path = session.tree.select(len(session.tree)).most_likely_path()
            drafted = path.subset(range(min(most, len(path))))
        guesser, guessed = self._own_guess(session, stands_in=not len(drafted))
        session.self_drafted = len(guessed) > 0 and self._promise(guesser, guessed) > self._promise(author, drafted)
        session.checked = guesser if session.self_drafted else author
        return guessed if session.self_drafted else drafted

    def _own_guess(self, session: Session, stands_in: bool = True) -> tuple[str, DraftSlice]:
        """What is guessed here, and in whose name: what the client predicts, or else, where it `stands_in`, lookup.

        Neither costs a round trip, so prompt lookup stands in for drafts that are still on their way. An agent's own
        drafts have its own lookup in them.
        """
        if session.prediction and len(predicted := self._chain(*session.prediction.continuation())):
            return PREDICTED + session.request.salt, predicted
        if (index := session.index) is None or not stands_in:
            return LOOKUP, EMPTY_DRAFT
        index.learn(session.text, min(len(session.text), index.learnt + LEARNT_AT_ONCE), session.prompt)
        return LOOKUP, self._chain(*index.continuation(session.text))

    def _chain(self, tokens: Sequence[int], chances: Sequence[float]) -> DraftSlice:
        """As many of these tokens, one behind the other, as a step takes of one session."""
        count = min(len(tokens), self._limits.verify_nodes)
        costs = tuple(accumulate(confidence_byte(chance) for chance in chances[:count]))
        return DraftSlice.chain(tokens[:count], costs)

    def _promise(self, author: str, draft: DraftSlice) -> float:
        """How many of its tokens may be expected to be committed."""
        return sum(self._calibrations.of(author).chances(draft))

    def _may_check(self, key: int) -> bool:
        return self._sessions[key].latency_budget.may_check(self._plain_seconds())

    def _plain_seconds(self) -> float:
        """Seconds of a step in which every session decodes plainly."""
        return self.costs.seconds(max(1, len(self._sessions)))

    def _waiting_for_drafts(self, ready: Sequence[int], now: float) -> dict[int, float]:
        """Until when each of `ready` waits, if all of them do and no prompt is there to be taken in.

        A step that runs anyway takes everybody along: who sat it out would wait as long as it lasts.
        """
        waiting: dict[int, float] = {}
        if len(ready) < len(self._sessions):
            return waiting
        for key in ready:
            if (until := self._waits(key, now)) <= now:
                return {}
            waiting[key] = until
        return waiting

    def _waits(self, key: int, now: float) -> float:
        """Until when this session waits for a draft; `now` or earlier if it has one, or no reason to wait."""
        session = self._sessions[key]
        if not session.agent or session.lapsed or not self.costs.known:
            return now
        if session.prediction and session.prediction.continuation(1)[0]:
            return now
        ripe = self._ripens(key, session) if session.has_draft else inf
        if ripe <= now or not drafting_pays(session.acceptance, len(self._sessions), self.costs.seconds):
            return now
        if not session.has_draft and not self._worth_waiting(session):
            return now
        if session.waiting_since is None:
            session.waiting_since = now
            session.patience = session.latency_budget.patience(
                self._plain_seconds(), None if session.has_draft else session.draft_delay, self._limits.draft_wait
            )
        until = session.waiting_since + session.patience
        if until <= now and session.patience > 0:
            session.lapsed = True
        return min(until, ripe)

    def _worth_waiting(self, session: Session) -> bool:
        """Whether to wait for a draft that is missing; where its delay is not known yet, to learn it."""
        rhythm, sessions = self._calibrations.of(session.agent).rhythm, len(self._sessions)
        delay = session.draft_delay if session.draft_delay is not None else rhythm.delay
        if delay is None:
            return True
        meanwhile = 1 + self._promise(*self._own_guess(session))
        checked = self.costs.seconds(round(sessions * (1 + rhythm.nodes)))
        return worth_waiting(rhythm, delay, meanwhile, self._plain_seconds(), checked)

    def _ripens(self, key: int, session: Session) -> float:
        """Until when it pays to wait for more nodes below those that are there; a time that is past if it does not."""
        if session.interval is None or session.drafted_at is None:
            return -inf
        draft = self._draft_of(key)
        chances = self._calibrations.of(session.checked).chances(draft)
        leaf = max(chance for i, chance in enumerate(chances) if i not in draft.parents)
        if not worth_ripening(leaf, session.acceptance, self._plain_seconds(), session.interval):
            return -inf
        return session.drafted_at + LATE * session.interval
