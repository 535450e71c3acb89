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

from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockTable, OutOfBlocks
from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from verifier.engine.grammar import GrammarCache, start_constraint
from verifier.engine.interface import Capacity, Overloaded, Request, ScheduledSession, StepResult, check_bounds
from verifier.engine.verification import Verification, VerifyResult


@dataclass(slots=True)
class _Session:
    request: Request
    kv: BlockTable
    text: list[int]  # prompt and output; all but the last few are in the cache
    choices: Verification
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
    rows: SequenceRows
    context: int  # rows that are text; the others are draft
    draft: DraftSlice


class TransformersEngine:
    """engine.Engine over a PackedModel."""

    supports_trees = True

    def __init__(
        self,
        model: PackedModel,
        vocab_size: int,
        context_length: int,
        max_sessions: int,
        grammars: GrammarCache | None = None,
    ) -> None:
        """Without `grammars`, requests that have one are refused."""
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._model = model
        self._max_sessions = max_sessions
        self._grammars = grammars
        self._sessions: dict[int, _Session] = {}  # oldest first

    def precompile(self, sampling: Sampling) -> None:
        if self._grammars and sampling.grammar:
            self._grammars.get_or_compile(sampling.grammar)

    def validate(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, min(self.context_length, self._model.block_manager.num_tokens))
        start_constraint(request, self._grammars)

    def open(self, request: Request) -> int:
        self.validate(request)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are running")
        session = _Session(
            request=request,
            kv=self._model.new_block_table(request.salt),
            text=[*request.prompt, *request.committed],
            choices=Verification(request, start_constraint(request, self._grammars)),
        )
        session.kv.match_prefix(session.text)
        promised = sum(other.unseen for other in self._sessions.values())
        if self._sessions and promised + session.unseen + BLOCK_SIZE > self._model.block_manager.num_free_tokens:
            session.kv.truncate(0)
            raise Overloaded("others need all of the KV cache")
        self._sessions[request.session] = session
        return session.unseen

    def step(self, work: Sequence[ScheduledSession]) -> list[StepResult]:
        began = time.perf_counter()
        jobs, evicted = self._pack(work)
        progress = [StepResult(key, (), self._sessions[key].unseen) for key in evicted]
        if not jobs:
            return progress
        logits = self._model.forward([job.rows for job in jobs])
        wanted = [len(job.rows.logit_rows) for job in jobs]
        walks = [self._walk(job, rows) for job, rows in zip(jobs, logits.split(wanted), strict=True)]
        seconds = (time.perf_counter() - began) / sum(len(job.rows.tokens) for job in jobs)
        for job, walk in zip(jobs, walks, strict=True):
            progress.append(
                StepResult(
                    session=job.session.request.session,
                    tokens=walk.tokens,
                    num_uncomputed=job.session.unseen,
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
        kv = self._model.block_manager
        return Capacity(self._max_sessions - len(self._sessions), kv.num_tokens, kv.num_free_tokens)

    def _pack(self, work: Sequence[ScheduledSession]) -> tuple[list[_Job], list[int]]:
        """Rows with their room in the cache reserved, and the sessions that lost theirs to make it."""
        jobs: dict[int, _Job] = {}
        evicted: list[int] = []
        for item in work:
            if item.session in evicted:
                continue
            session = self._sessions[item.session]
            if not session.kv.holds_blocks:  # new, or evicted: perhaps not all of it is lost
                session.kv.match_prefix(session.text)
            job = _job(session, item)
            while not (fits := _reserved(job)) and (victim := self._youngest(item.session)) is not None:
                self._sessions[victim].kv.truncate(0)
                jobs.pop(victim, None)
                evicted.append(victim)
            if not fits and len(job.draft):
                job = _job(session, replace(item, draft=EMPTY_DRAFT))
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

    def _walk(self, job: _Job, logits: torch.Tensor) -> VerifyResult:
        """What was chosen, and the cache without the rows of what was not."""
        session = job.session
        if not job.rows.logit_rows:
            session.kv.keep_accepted(range(job.context))
            session.kv.cache_blocks(session.text)
            return VerifyResult()
        walk = session.choices.verify(logits, session.output, job.draft)
        session.kv.keep_accepted([*range(job.context), *(job.context + i for i in walk.path)])
        session.text.extend(walk.tokens)
        session.kv.cache_blocks(session.text)
        return walk


def _job(session: _Session, item: ScheduledSession) -> _Job:
    context = session.text[session.kv.length : session.kv.length + item.num_tokens]
    size = len(context)
    if size < session.unseen:
        return _Job(session, SequenceRows(session.kv, context), size, EMPTY_DRAFT)
    if not len(item.draft):
        return _Job(session, SequenceRows(session.kv, context, logit_rows=[size - 1]), size, EMPTY_DRAFT)
    # A parent of -1 is the last token of the text, which is the last row of the context.
    rows = SequenceRows(
        blocks=session.kv,
        tokens=[*context, *item.draft.tokens],
        parents=[*range(-1, size - 1), *(parent + size for parent in item.draft.parents)],
        logit_rows=range(size - 1, size + len(item.draft)),
    )
    return _Job(session, rows, size, item.draft)


def _reserved(job: _Job) -> bool:
    try:
        job.rows.blocks.reserve_slots(len(job.rows.tokens))
    except OutOfBlocks:
        return False
    return True
