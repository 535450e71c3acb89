"""The scheduler: which sessions go into the next step, with which part of their drafts, and who waits until when.

It holds each session's draft tree and its pace. Plain synchronous code, told the time; it neither computes nor sends.
The judgements are policy.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgedraft.tree import EMPTY, DraftTree, Slice, Violation
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open
from verifier.engine import Engine, Progress, Request, Work
from verifier.policy import Pace, share_nodes, smoothed, window


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a step: rows in all, rows up to which more are cheap, nodes of one session; seconds to wait at most."""

    step_tokens: int
    cheap_rows: int
    verify_nodes: int
    draft_wait: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step's work; where there is none, the time at which somebody's patience ends."""

    work: list[Work]
    wake_at: float | None


@dataclass(slots=True)
class _Session:
    tree: DraftTree
    unseen: int
    edge: bool
    pace: Pace = field(default_factory=Pace)
    acceptance: float = 0.5  # of the best guess, a running mean
    missed_at: float | None = None  # since when there has been nothing to check
    draft_delay: float | None = None  # from a miss to the next draft, a running mean
    waiting_since: float | None = None
    patience: float = 0.0
    lapsed: bool = False  # patience ended without a draft; not waited for again until one arrives

    @property
    def has_draft(self) -> bool:
        return len(self.tree) > 0 and not self.tree.surplus


class Scheduler:
    """Sessions by the engine's keys, in the order in which they were opened."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self._sessions: dict[int, _Session] = {}
        self._plain_seconds: float | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, key: int, message: Open) -> None:
        """Raises Refused or Overloaded (engine.py)."""
        request = Request(
            session=key,
            prompt=tuple(message.prompt),
            sampling=message.sampling,
            max_tokens=message.max_tokens,
            eos=frozenset(message.eos),
            committed=tuple(message.committed),
        )
        unseen = self._engine.open(request)
        self._sessions[key] = _Session(DraftTree(MAX_WINDOW, message.committed, message.epoch), unseen, message.edge)

    def draft(self, key: int, message: Draft, now: float) -> None:
        """Take drafted nodes in, which came at `now`.

        Raises Violation, after which the session goes on without its agent.
        """
        session = self._sessions.get(key)
        if session is None:
            return
        try:
            if max(message.tokens) >= self._engine.vocab_size:
                raise Violation("a token id is outside the vocabulary")
            session.tree.add(
                message.epoch, message.at, message.first, message.tokens, message.parents, message.confidence
            )
        except Violation:
            self.edge(key, False)
            raise
        if session.has_draft:
            session.lapsed = False
            if session.missed_at is not None:
                session.draft_delay = smoothed(session.draft_delay, max(0.0, now - session.missed_at))
                session.missed_at = None

    def edge(self, key: int, attached: bool) -> None:
        """An agent joined or left the session."""
        if session := self._sessions.get(key):
            session.edge = attached
            session.draft_delay = None
            session.lapsed = False

    def close(self, key: int) -> None:
        if self._sessions.pop(key, None):
            self._engine.close(key)

    def plan(self, now: float) -> Plan:
        """Every session that decodes or has a draft; those that wait only while they may; prompts with what is left."""
        limits = self._limits
        ready = [key for key, session in self._sessions.items() if session.unseen <= 1]
        drafts = {key: self._best(key, limits.verify_nodes) for key in ready}
        waiting = {key: until for key in ready if not len(drafts[key]) and (until := self._waits(key, now)) > now}
        going = [key for key in ready if key not in waiting][: limits.step_tokens]
        cheap = max(0, min(limits.cheap_rows, limits.step_tokens) - len(going))
        shares = share_nodes({key: drafts[key] for key in going}, cheap)
        work = [Work(key, 1, self._best(key, shares[key])) for key in going]
        left = limits.step_tokens - sum(1 + len(item.draft) for item in work)
        for key, session in self._sessions.items():
            if session.unseen <= 1 or left <= 0:
                continue
            rows = min(session.unseen, left)
            left -= rows
            # The forward that ends a prompt checks what was drafted meanwhile.
            draft = self._best(key, min(limits.verify_nodes, left)) if rows == session.unseen else EMPTY
            left -= len(draft)
            work.append(Work(key, rows, draft))
        return Plan(work, min(waiting.values(), default=None))

    def apply(self, work: Sequence[Work], progress: Iterable[Progress], began: float, now: float) -> dict[int, Commit]:
        """Commit what a step made; returns a Commit a session, its session number left to the sender."""
        extra = self._measure(work, now - began)
        commits: dict[int, Commit] = {}
        for made in progress:
            session = self._sessions[made.session]
            session.unseen = made.unseen
            if not made.tokens:
                continue
            if session.waiting_since is not None:
                session.pace = session.pace.after_wait(max(0.0, began - session.waiting_since))
                session.waiting_since = None
            if made.nodes:
                session.acceptance = smoothed(session.acceptance, made.accepted / min(made.accepted + 1, made.depth))
            session.pace = session.pace.after_step(made.accepted, extra * made.nodes, self._plain_seconds or 0.0)
            at = len(session.tree.committed)
            session.tree.commit(at, made.tokens)
            if session.missed_at is None and not session.has_draft:
                session.missed_at = now
            commits[made.session] = Commit(
                session=made.session,
                at=at,
                tokens=list(made.tokens),
                window=window(session.acceptance, MAX_WINDOW),
                nodes=made.nodes,
                depth=made.depth,
                accepted=made.accepted,
                seconds=made.seconds,
                finish=made.finish,
            )
            if made.finish:
                self.close(made.session)
        return commits

    def _best(self, key: int, nodes: int) -> Slice:
        session = self._sessions[key]
        if not session.pace.may_check(self._plain_seconds or 1.0):
            return EMPTY
        return session.tree.best(nodes)

    def _waits(self, key: int, now: float) -> float:
        """Until when this session, which has nothing to check, waits for a draft."""
        session = self._sessions[key]
        if not session.edge or session.lapsed or self._plain_seconds is None:
            return now
        if session.waiting_since is None:
            session.waiting_since = now
            session.patience = session.pace.patience(self._plain_seconds, session.draft_delay, self._limits.draft_wait)
        until = session.waiting_since + session.patience
        if until <= now and session.patience > 0:
            session.lapsed = True
        return until

    def _measure(self, work: Sequence[Work], elapsed: float) -> float:
        """Learn what a plain step takes; returns the seconds that each drafted node added to this one."""
        if any(item.rows > 1 for item in work):
            return 0.0
        nodes = sum(len(item.draft) for item in work)
        plain = self._plain_seconds
        # A step with drafts is never quicker than a plain one: it can only show that the estimate is too high.
        self._plain_seconds = smoothed(plain, elapsed if not nodes or plain is None else min(plain, elapsed))
        return max(0.0, elapsed - self._plain_seconds) / nodes if nodes else 0.0
