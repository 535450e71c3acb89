"""The draft model as a drafter: one packed forward for the requests of all sessions, with KV cache reuse between them.

The KV cache holds the path that each session ran last. The next request reuses the common prefix: the cached rest is
truncated and only new tokens are run, one row while drafting goes down a path and a few after a mismatch. Long contexts
are prefilled in chunks whose size keeps a forward short, so that other sessions need not wait. When the KV cache is
full, the least recently drafted sessions are evicted and recomputed at their next request.

This module does not decide where in a tree to draft or what is sent (drafting/draft_session.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.token_counts import SessionTokenCounts
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockTable, OutOfBlocks
from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from edgedraft.sampling.sampler import propose_tokens

MAX_CANDIDATES = 6  # per request
MIN_SIBLING_PROBABILITY = 0.03  # all candidates but the first are dropped below it
MIN_ROWS, MAX_ROWS = 16, 1024  # bounds of the row limit of one forward
TARGET_FORWARD_SECONDS = 0.06  # of a forward at its row limit


@dataclass(slots=True, eq=False)
class _SessionCache:
    """One session's part of the KV cache: the keys and values of `tokens`."""

    blocks: BlockTable
    tokens: list[int] = field(default_factory=list)
    last_step: int = 0  # the last forward that it was in

    def truncate(self, length: int) -> None:
        self.blocks.truncate(length)
        del self.tokens[length:]


@dataclass(frozen=True, slots=True)
class _ScheduledRows:
    """The rows of one request in a forward: context[start : start + num_rows]."""

    request_index: int
    cache: _SessionCache
    start: int
    num_rows: int
    completes: bool


class ModelDrafter:
    """Drafts with a packed model. Nothing else may use the model's KV cache until every session is closed."""

    def __init__(
        self,
        model: PackedModel,
        context_length: int,
        vocab_size: int,
        head_ids: torch.Tensor | None = None,
        coupled: bool = True,
    ) -> None:
        """`vocab_size` is the target's. `head_ids` [columns] maps logit columns to token ids if the head is cut.

        `coupled` adds the target's sampling noise (edgedraft/sampling/sampler.py); False is for measuring its effect.
        Contexts longer than `context_length` or than the KV cache, and tokens without an embedding, get NO_PROPOSAL.
        """
        self._model = model
        self._coupled = coupled
        self._max_context = min(context_length, model.block_manager.num_tokens)
        self._vocab_size = vocab_size
        self._num_embeddings = int(model.model.get_input_embeddings().weight.shape[0])  # type: ignore[arg-type]
        columns = int(model.model.get_output_embeddings().out_features)  # type: ignore[union-attr,arg-type]
        ids = torch.arange(columns, device=model.device) if head_ids is None else head_ids
        shared = ids < vocab_size
        self._columns = None if bool(shared.all()) else shared.nonzero()[:, 0]
        self._ids = None if head_ids is None and columns >= vocab_size else ids[shared]
        self._sessions: dict[int, _SessionCache] = {}
        self._token_counts = SessionTokenCounts()
        self._max_rows = 4 * MIN_ROWS
        self._step = 0

    def open(self, session: int) -> None:
        self.close(session)
        self._sessions[session] = _SessionCache(self._model.new_block_table())

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        cache = self._sessions.pop(session, None)
        if cache is not None:
            cache.truncate(0)

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for a request that cannot be drafted, INCOMPLETE until its context is prefilled."""
        start = time.perf_counter()
        proposals = [INCOMPLETE if self._can_draft(request) else NO_PROPOSAL for request in requests]
        scheduled = self._schedule(requests, proposals)
        if not scheduled:
            return proposals
        logits = self._model.forward(
            [
                SequenceRows(
                    rows.cache.blocks,
                    requests[rows.request_index].context[rows.start : rows.start + rows.num_rows],
                    logit_rows=[rows.num_rows - 1] if rows.completes else [],
                )
                for rows in scheduled
            ]
        )
        for rows in scheduled:
            rows.cache.blocks.keep_accepted(range(rows.num_rows))
            rows.cache.tokens += requests[rows.request_index].context[rows.start : rows.start + rows.num_rows]
        for row, rows in enumerate(rows for rows in scheduled if rows.completes):
            proposals[rows.request_index] = self._proposal(logits[row : row + 1], requests[rows.request_index])
        self._adapt_max_rows(sum(rows.num_rows for rows in scheduled), time.perf_counter() - start)
        return proposals

    def _can_draft(self, request: DraftRequest) -> bool:
        if not 0 < len(request.context) <= self._max_context:
            return False
        return self._vocab_size <= self._num_embeddings or max(request.context) < self._num_embeddings

    def _schedule(self, requests: Sequence[DraftRequest], proposals: Sequence[Proposal]) -> list[_ScheduledRows]:
        """Choose the rows of this forward: requests with the fewest rows first, then the least recently drafted."""
        self._step += 1
        remainders: list[tuple[int, int, int]] = []
        for i, request in enumerate(requests):
            if proposals[i] is INCOMPLETE:
                cache = self._sessions[request.session]
                # The last token is always run, for its logits.
                cache.truncate(min(common_prefix(cache.tokens, request.context), len(request.context) - 1))
                remainders.append((len(request.context) - len(cache.tokens), cache.last_step, i))
        scheduled: list[_ScheduledRows] = []
        rows_left = self._max_rows
        for rest, _, i in sorted(remainders):
            cache, start = self._sessions[requests[i].session], len(requests[i].context) - rest
            rows = min(rest, rows_left)
            if rows and self._reserve(cache, rows, rest, scheduled):
                scheduled.append(_ScheduledRows(i, cache, start, rows, completes=rows == rest))
                cache.last_step = self._step
                rows_left -= rows
        return scheduled

    def _reserve(self, cache: _SessionCache, rows: int, rest: int, scheduled: Sequence[_ScheduledRows]) -> bool:
        """Reserve slots for `rows`, evicting the least recently drafted sessions.

        Returns False when all `rest` rows of the request do not fit beside those scheduled already.
        """
        held = sum(_num_blocks(other.start + other.num_rows) for other in scheduled)
        if held + _num_blocks(len(cache.tokens) + rest) > self._model.block_manager.num_blocks:
            return False
        in_use = [cache, *(other.cache for other in scheduled)]
        while True:
            try:
                cache.blocks.reserve_slots(rows)
                return True
            except OutOfBlocks:
                evictable = [c for c in self._sessions.values() if c.blocks.holds_blocks and c not in in_use]
                min(evictable, key=lambda other: other.last_step).truncate(0)

    def _proposal(self, logits: torch.Tensor, request: DraftRequest) -> Proposal:
        """The most likely candidates of logits [1, columns]."""
        if self._columns is not None:
            logits = logits[:, self._columns]
        with self._token_counts.counts_at(request) as counts:
            tokens, probabilities = propose_tokens(
                logits,
                request.sampling,
                [request.output_index],
                MAX_CANDIDATES,
                self._ids,
                self._vocab_size,
                self._coupled,
                counts,
            )
        best = [
            (token, probability)
            for i, (token, probability) in enumerate(zip(tokens[0].tolist(), probabilities[0].tolist(), strict=True))
            if i == 0 or probability >= MIN_SIBLING_PROBABILITY
        ]
        return Proposal(tuple(t for t, _ in best), (-1,) * len(best), tuple(p for _, p in best))

    def _adapt_max_rows(self, rows: int, seconds: float) -> None:
        """Fit the row limit of a forward to TARGET_FORWARD_SECONDS; a forward below the limit changes nothing."""
        if rows < self._max_rows:
            return
        if seconds > 1.5 * TARGET_FORWARD_SECONDS:
            self._max_rows = max(MIN_ROWS, self._max_rows // 2)
        elif seconds < 0.6 * TARGET_FORWARD_SECONDS:
            self._max_rows = min(MAX_ROWS, self._max_rows * 2)


def _num_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading tokens that `a` and `b` share, by binary search over slices, which compare fast in C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
