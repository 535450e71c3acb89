"""The embedded engine: a transformers causal LM, one packed forward per step.

The rows of a step are, for each session, the tokens that are not in its KV cache yet and after them its draft nodes.
Verification (verification.py) accepts nodes at the logits of those rows.
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
class _EngineSession:
    request: Request
    block_table: BlockTable
    token_ids: list[int]  # prompt and output; all but the last few are in the cache
    verification: Verification
    num_prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.request.prompt)

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.block_table.length

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class _PackedSession:
    """A session's rows of a forward: `num_text_rows` of its text, then those of its draft."""

    session: _EngineSession
    rows: SequenceRows
    num_text_rows: int
    draft: DraftSlice


class TransformersEngine:
    """verifier.engine.interface.Engine over a PackedModel."""

    supports_trees = True

    def __init__(
        self,
        model: PackedModel,
        vocab_size: int,
        context_length: int,
        max_sessions: int,
        grammars: GrammarCache | None = None,
    ) -> None:
        """Without `grammars`, requests that have a grammar are rejected."""
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._model = model
        self._max_sessions = max_sessions
        self._grammars = grammars
        self._sessions: dict[int, _EngineSession] = {}  # oldest first

    def precompile(self, sampling: Sampling, share: str) -> object:
        return self._grammars.compile(sampling.grammar, share) if self._grammars and sampling.grammar else None

    def validate(self, request: Request) -> None:
        check_bounds(request, self.vocab_size, min(self.context_length, self._model.block_manager.num_tokens))
        start_constraint(request, self._grammars)

    def open(self, request: Request) -> int:
        self.validate(request)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are running")
        session = _EngineSession(
            request=request,
            block_table=self._model.new_block_table(request.salt),
            token_ids=[*request.prompt, *request.committed],
            verification=Verification(request, start_constraint(request, self._grammars)),
        )
        session.block_table.match_prefix(session.token_ids)
        promised = sum(other.num_uncomputed for other in self._sessions.values())
        needed = promised + session.num_uncomputed + BLOCK_SIZE
        if self._sessions and needed > self._model.block_manager.num_free_tokens:
            session.block_table.truncate(0)
            raise Overloaded("others need all of the KV cache")
        self._sessions[request.session] = session
        return session.num_uncomputed

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        began = time.perf_counter()
        packed, evicted = self._pack(scheduled)
        results = [StepResult(key, (), self._sessions[key].num_uncomputed) for key in evicted]
        if not packed:
            return results
        logits = self._model.forward([item.rows for item in packed])
        num_logit_rows = [len(item.rows.logit_rows) for item in packed]
        verified = [self._verify(item, rows) for item, rows in zip(packed, logits.split(num_logit_rows), strict=True)]
        seconds = (time.perf_counter() - began) / sum(len(item.rows.tokens) for item in packed)
        for item, result in zip(packed, verified, strict=True):
            results.append(
                StepResult(
                    session=item.session.request.session,
                    tokens=result.tokens,
                    num_uncomputed=item.session.num_uncomputed,
                    nodes=len(item.draft),
                    depth=max(item.draft.depths, default=0),
                    accepted=len(result.path),
                    seconds=seconds * len(item.rows.tokens),
                    finish=result.finish,
                    logprobs=result.logprobs,
                    failure=result.failure,
                )
            )
        return results

    def close(self, session: int) -> None:
        if closed := self._sessions.pop(session, None):
            closed.block_table.truncate(0)

    def capacity(self) -> Capacity:
        kv = self._model.block_manager
        return Capacity(self._max_sessions - len(self._sessions), kv.num_tokens, kv.num_free_tokens)

    def _pack(self, scheduled: Sequence[ScheduledSession]) -> tuple[list[_PackedSession], list[int]]:
        """The rows of a step with their KV slots reserved, and the keys of sessions evicted for them."""
        packed: dict[int, _PackedSession] = {}
        evicted: list[int] = []
        for item in scheduled:
            if item.session in evicted:
                continue
            session = self._sessions[item.session]
            if not session.block_table.holds_blocks:  # new, or evicted: some blocks may still be cached
                session.block_table.match_prefix(session.token_ids)
            candidate = _pack_session(session, item)
            while not (fits := _try_reserve(candidate)) and (victim := self._youngest_after(item.session)) is not None:
                self._sessions[victim].block_table.truncate(0)
                packed.pop(victim, None)
                evicted.append(victim)
            if not fits and len(candidate.draft):
                candidate = _pack_session(session, replace(item, draft=EMPTY_DRAFT))
                fits = _try_reserve(candidate)
            if fits:  # else older sessions hold all blocks, and this one waits for them
                packed[item.session] = candidate
        return list(packed.values()), evicted

    def _youngest_after(self, session: int) -> int | None:
        """The youngest session that holds blocks and was opened after `session`."""
        for key in reversed(self._sessions):
            if key == session:
                return None
            if self._sessions[key].block_table.holds_blocks:
                return key
        return None

    def _verify(self, item: _PackedSession, logits: torch.Tensor) -> VerifyResult:
        """Verify the draft, commit the result, and drop the rejected rows from the cache."""
        session = item.session
        if not item.rows.logit_rows:
            session.block_table.keep_accepted(range(item.num_text_rows))
            session.block_table.cache_blocks(session.token_ids)
            return VerifyResult()
        result = session.verification.verify(logits, session.num_output_tokens, item.draft)
        session.block_table.keep_accepted([*range(item.num_text_rows), *(item.num_text_rows + i for i in result.path)])
        session.token_ids.extend(result.tokens)
        session.block_table.cache_blocks(session.token_ids)
        return result


def _pack_session(session: _EngineSession, item: ScheduledSession) -> _PackedSession:
    computed = session.block_table.length
    text = session.token_ids[computed : computed + item.num_tokens]
    size = len(text)
    if size < session.num_uncomputed:
        return _PackedSession(session, SequenceRows(session.block_table, text), size, EMPTY_DRAFT)
    if not len(item.draft):
        rows = SequenceRows(session.block_table, text, logit_rows=[size - 1])
        return _PackedSession(session, rows, size, EMPTY_DRAFT)
    # A parent of -1 is the last token of the text, which is the last text row.
    rows = SequenceRows(
        block_table=session.block_table,
        tokens=[*text, *item.draft.tokens],
        parents=[*range(-1, size - 1), *(parent + size for parent in item.draft.parents)],
        logit_rows=range(size - 1, size + len(item.draft)),
    )
    return _PackedSession(session, rows, size, item.draft)


def _try_reserve(item: _PackedSession) -> bool:
    try:
        item.rows.block_table.reserve_slots(len(item.rows.tokens))
    except OutOfBlocks:
        return False
    return True
