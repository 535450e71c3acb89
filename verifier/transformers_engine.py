"""The embedded engine: a transformers causal LM, one packed forward a step.

A step's rows are, for each session, the tokens not yet in its KV cache and behind them its draft; the choice at each
row (choosing.py) tells how far down the draft the target goes along. Which sessions and how many nodes is the
scheduler's to say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from edgedraft.kv import BLOCK, KVSequence, OutOfBlocks
from edgedraft.paged import PackedModel, Rows
from edgedraft.tree import EMPTY, Slice
from edgedraft.wire import Sampling
from verifier.choosing import Choices, Walk
from verifier.engine import Capacity, Overloaded, Progress, Request, Work, check_bounds
from verifier.grammar import Grammars, constraint_of


@dataclass(slots=True)
class _Session:
    request: Request
    kv: KVSequence
    text: list[int]  # prompt and output; all but the last few are in the cache
    choices: Choices
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = len(self.request.prompt)

    @property
    def unseen(self) -> int:
        return len(self.text) - self.kv.length

    @property
    def output(self) -> int:
        return len(self.text) - self.prompt


@dataclass(frozen=True, slots=True)
class _Job:
    session: _Session
    rows: Rows
    context: int  # rows that are text; the others are draft
    draft: Slice


class TransformersEngine:
    """engine.Engine over a PackedModel."""

    branches = True

    def __init__(
        self,
        model: PackedModel,
        vocab_size: int,
        context_length: int,
        max_sessions: int,
        grammars: Grammars | None = None,
    ) -> None:
        """Without `grammars`, requests that have one are refused."""
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._model = model
        self._max_sessions = max_sessions
        self._grammars = grammars
        self._sessions: dict[int, _Session] = {}  # oldest first

    def prepare(self, sampling: Sampling) -> None:
        if self._grammars and sampling.grammar:
            self._grammars.prepare(sampling.grammar)

    def check(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, min(self.context_length, self._model.kv.tokens))
        constraint_of(request, self._grammars)

    def open(self, request: Request) -> int:
        self.check(request)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are running")
        session = _Session(
            request=request,
            kv=self._model.sequence(request.salt),
            text=[*request.prompt, *request.committed],
            choices=Choices(request, constraint_of(request, self._grammars)),
        )
        session.kv.adopt(session.text)
        promised = sum(other.unseen for other in self._sessions.values())
        if self._sessions and promised + session.unseen + BLOCK > self._model.kv.free_tokens:
            session.kv.truncate(0)
            raise Overloaded("others need all of the KV cache")
        self._sessions[request.session] = session
        return session.unseen

    def step(self, work: Sequence[Work]) -> list[Progress]:
        began = time.perf_counter()
        jobs, evicted = self._pack(work)
        progress = [Progress(key, (), self._sessions[key].unseen) for key in evicted]
        if not jobs:
            return progress
        logits = self._model.forward([job.rows for job in jobs])
        wanted = [len(job.rows.wanted) for job in jobs]
        walks = [self._walk(job, rows) for job, rows in zip(jobs, logits.split(wanted), strict=True)]
        seconds = (time.perf_counter() - began) / sum(len(job.rows.tokens) for job in jobs)
        for job, walk in zip(jobs, walks, strict=True):
            progress.append(
                Progress(
                    session=job.session.request.session,
                    tokens=walk.tokens,
                    unseen=job.session.unseen,
                    nodes=len(job.draft),
                    depth=max(job.draft.depths, default=0),
                    accepted=len(walk.path),
                    seconds=seconds * len(job.rows.tokens),
                    finish=walk.finish,
                    logprobs=walk.logprobs,
                )
            )
        return progress

    def close(self, session: int) -> None:
        if gone := self._sessions.pop(session, None):
            gone.kv.truncate(0)

    def capacity(self) -> Capacity:
        kv = self._model.kv
        return Capacity(self._max_sessions - len(self._sessions), kv.tokens, kv.free_tokens)

    def _pack(self, work: Sequence[Work]) -> tuple[list[_Job], list[int]]:
        """Rows with their room in the cache reserved, and the sessions that lost theirs to make it."""
        jobs: dict[int, _Job] = {}
        evicted: list[int] = []
        for item in work:
            if item.session in evicted:
                continue
            session = self._sessions[item.session]
            if not session.kv.holds_blocks:  # new, or evicted: perhaps not all of it is lost
                session.kv.adopt(session.text)
            job = _job(session, item)
            while not (fits := _reserved(job)) and (victim := self._youngest(item.session)) is not None:
                self._sessions[victim].kv.truncate(0)
                jobs.pop(victim, None)
                evicted.append(victim)
            if not fits and len(job.draft):
                job = _job(session, replace(item, draft=EMPTY))
                fits = _reserved(job)
            if fits:  # else older sessions hold all blocks, and this one waits for them
                jobs[item.session] = job
        return list(jobs.values()), evicted

    def _youngest(self, than: int) -> int | None:
        """The youngest session that holds blocks and is younger than `than`."""
        for key in reversed(self._sessions):
            if key == than:
                return None
            if self._sessions[key].kv.holds_blocks:
                return key
        return None

    def _walk(self, job: _Job, logits: torch.Tensor) -> Walk:
        """What was chosen, and the cache without the rows of what was not."""
        session = job.session
        if not job.rows.wanted:
            session.kv.keep(range(job.context))
            session.kv.publish(session.text)
            return Walk()
        walk = session.choices.walk(logits, session.output, job.draft)
        session.kv.keep([*range(job.context), *(job.context + i for i in walk.path)])
        session.text.extend(walk.tokens)
        session.kv.publish(session.text)
        return walk


def _job(session: _Session, item: Work) -> _Job:
    context = session.text[session.kv.length : session.kv.length + item.rows]
    size = len(context)
    if size < session.unseen:
        return _Job(session, Rows(session.kv, context), size, EMPTY)
    if not len(item.draft):
        return _Job(session, Rows(session.kv, context, wanted=[size - 1]), size, EMPTY)
    # A parent of -1 is the last token of the text, which is the last row of the context.
    rows = Rows(
        sequence=session.kv,
        tokens=[*context, *item.draft.tokens],
        parents=[*range(-1, size - 1), *(parent + size for parent in item.draft.parents)],
        wanted=range(size - 1, size + len(item.draft)),
    )
    return _Job(session, rows, size, item.draft)


def _reserved(job: _Job) -> bool:
    try:
        job.rows.sequence.reserve(len(job.rows.tokens))
    except OutOfBlocks:
        return False
    return True
