"""The draft model as a drafter: one packed forward for the requests of all sessions, with KV cache reuse between them.

The requests of one session are positions in one draft tree. The KV cache holds the tree's computed rows beside the
committed text (session_cache.py), so a forward runs only tokens that no forward has run before, and the last token of a
request, for its logits. Long contexts are prefilled in chunks whose size keeps a forward short, so that other sessions
need not wait. When the KV cache is full, the least recently drafted sessions are evicted and recomputed at their next
request.

This module does not decide where in a tree to draft or what is sent (drafting/draft_session.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch

from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.session_cache import SessionCache
from edge_agent.drafters.token_counts import SessionTokenCounts
from edgedraft.runtime.block_manager import BLOCK_SIZE, OutOfBlocks
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.sampling.token_counts import has_penalties
from edgedraft.wire import MAX_WINDOW

MAX_CANDIDATES = 6  # per request
MIN_SIBLING_PROBABILITY = 0.03  # all candidates but the first are dropped below it
MIN_ROWS, MAX_ROWS = 16, 1024  # bounds of the row limit of one forward
TARGET_FORWARD_SECONDS = 0.06  # of a forward at its row limit
MAX_KEPT_ROWS = 2 * MAX_WINDOW  # of one session; beyond them only those on the requested paths are kept


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
        self._sessions: dict[int, SessionCache] = {}
        self._token_counts = SessionTokenCounts()
        self._max_rows = 4 * MIN_ROWS
        self._step = 0

    def open(self, session: int) -> None:
        self.close(session)
        self._sessions[session] = SessionCache(self._model.new_block_table())

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        cache = self._sessions.pop(session, None)
        if cache is not None:
            cache.clear()

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for a request that cannot be drafted, INCOMPLETE until its context is prefilled."""
        start = time.perf_counter()
        proposals = [INCOMPLETE if self._can_draft(request) else NO_PROPOSAL for request in requests]
        scheduled = self._schedule(requests, [i for i, proposal in enumerate(proposals) if proposal is INCOMPLETE])
        if not scheduled:
            return proposals
        rows = [cache.scheduled_rows() for cache in scheduled]
        logits = self._model.forward(rows)
        for cache, its_logits in zip(scheduled, logits.split([len(r.logit_rows) for r in rows]), strict=True):
            completed = cache.finish()
            found = self._proposals(its_logits, [requests[i] for i in completed])
            for i, proposal in zip(completed, found, strict=True):
                proposals[i] = proposal
        self._adapt_max_rows(sum(len(r.tokens) for r in rows), time.perf_counter() - start)
        return proposals

    def _can_draft(self, request: DraftRequest) -> bool:
        if not 0 < len(request.context) <= self._max_context:
            return False
        return self._vocab_size <= self._num_embeddings or max(request.context) < self._num_embeddings

    def _schedule(self, requests: Sequence[DraftRequest], indices: Sequence[int]) -> list[SessionCache]:
        """Schedule the rows of this forward; returns the sessions that have some.

        Each session's first request comes before the others, so that nobody waits for another's branches: those with
        the fewest rows first, then the least recently drafted. The others take what the row limit leaves.
        """
        self._step += 1
        by_session: dict[int, list[int]] = {}
        for i in indices:
            by_session.setdefault(requests[i].session, []).append(i)
        order: list[tuple[int, int, int]] = []
        for session, own in by_session.items():
            cache, first = self._sessions[session], requests[own[0]]
            cache.follow(first.context, first.num_committed)
            if cache.num_rows > MAX_KEPT_ROWS:
                cache.keep_paths(requests[i].context for i in own)
            order.append((cache.num_missing(first.context), cache.last_step, own[0]))
        scheduled: dict[int, SessionCache] = {}
        rows_left = self._max_rows
        for i in [i for _, _, i in sorted(order)]:
            session, context = requests[i].session, requests[i].context
            cache = self._sessions[session]
            if not self._fits(cache, context, scheduled.values()):
                cache.keep_paths([context])
            if rows := self._schedule_request(i, requests[i], rows_left, scheduled.values()):
                scheduled[session] = cache
                cache.last_step = self._step
                rows_left -= rows
        for i in indices:
            session = requests[i].session
            if session in scheduled and i != by_session[session][0]:
                rows_left -= self._schedule_request(i, requests[i], rows_left, scheduled.values())
        return list(scheduled.values())

    def _schedule_request(
        self, index: int, request: DraftRequest, rows_left: int, scheduled: Iterable[SessionCache]
    ) -> int:
        """Schedule a request, or the part of it that `rows_left` rows allow; returns the rows that it adds."""
        cache = self._sessions[request.session]
        if not self._fits(cache, request.context, scheduled):
            return 0
        # Evicting others never changes this session, but an earlier request may have evicted this one.
        missing = cache.num_missing(request.context)
        rows = min(missing, rows_left)
        if missing and not rows:
            return 0
        self._reserve(cache, rows, scheduled)
        cache.schedule(index, request.context, rows)
        return rows

    def _fits(self, cache: SessionCache, context: Sequence[int], scheduled: Iterable[SessionCache]) -> bool:
        """Whether all rows of a context fit into the KV cache beside the sessions scheduled already."""
        held = sum(_num_blocks(other.num_slots) for other in scheduled if other is not cache)
        needed = _num_blocks(cache.num_slots + cache.num_missing(context))
        return held + needed <= self._model.block_manager.num_blocks

    def _reserve(self, cache: SessionCache, rows: int, scheduled: Iterable[SessionCache]) -> None:
        """Reserve slots for `rows` rows that fit, evicting the least recently drafted sessions."""
        in_use = [cache, *scheduled]
        while True:
            try:
                cache.reserve_slots(rows)
                return
            except OutOfBlocks:
                evictable = [c for c in self._sessions.values() if c.holds_blocks and c not in in_use]
                min(evictable, key=lambda other: other.last_step).clear()

    def _proposals(self, logits: torch.Tensor, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """The most likely candidates of logits [requests, columns], all of one session."""
        if len(requests) > 1 and has_penalties(requests[0].sampling):  # those go by each request's own text
            return [p for i, request in enumerate(requests) for p in self._proposals(logits[i : i + 1], [request])]
        if not requests:
            return []
        if self._columns is not None:
            logits = logits[:, self._columns]
        with self._token_counts.counts_at(requests[0]) as counts:
            tokens, probabilities = propose_tokens(
                logits,
                requests[0].sampling,
                [request.output_index for request in requests],
                MAX_CANDIDATES,
                self._ids,
                self._vocab_size,
                self._coupled,
                counts,
            )
        return [_proposal(*row) for row in zip(tokens.tolist(), probabilities.tolist(), strict=True)]

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


def _proposal(tokens: Sequence[int], probabilities: Sequence[float]) -> Proposal:
    """Candidates, best first, without the unlikely ones."""
    best = [
        (token, probability)
        for i, (token, probability) in enumerate(zip(tokens, probabilities, strict=True))
        if i == 0 or probability >= MIN_SIBLING_PROBABILITY
    ]
    return Proposal(tuple(t for t, _ in best), (-1,) * len(best), tuple(p for _, p in best))
