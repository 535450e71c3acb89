"""An exported draft as a drafter: one run of ONNX Runtime for the requests of all sessions.

Rows, tree and eviction are those of the torch drafter (drafters/forwards/); only the KV cache and the run are this
module's. Needs neither torch nor transformers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edge_agent.drafters.forwards.schedule import ForwardSchedule
from edge_agent.drafters.forwards.session_cache import ScheduledRows, SessionCache
from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.proposals.from_logits import propose_from_logits
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edge_agent.onnx.contract import MASKED
from edge_agent.onnx.kv_cache import KvPool, KvSlots
from edge_agent.onnx.model import DraftBatch, OnnxModel
from edgedraft.runtime.blocks import tree_paths

# Every row of a run is multiplied with the keys of all its sessions, those of others masked: 4 ms on a core.
MAX_SCORES = 1 << 18


class OnnxDrafter:
    """Drafts with a loaded model, which several drafters may share."""

    def __init__(self, model: OnnxModel, vocab_size: int, kv_tokens: int) -> None:
        """`vocab_size` is the target's: tokens at or above it are not proposed. The KV cache holds `kv_tokens`.

        Contexts longer than the model's or than the KV cache, and tokens without an embedding, get NO_PROPOSAL.
        """
        sizes = model.manifest
        self._model = model
        self._can_draft_all = vocab_size <= sizes.vocab_size
        self._num_columns = int((model.head_ids < vocab_size).sum())
        self._ids = model.head_ids[: self._num_columns]
        pool = KvPool(kv_tokens, 2 * sizes.layers, sizes.kv_heads, sizes.head_dim, model.kv_dtype)
        self._schedule: ForwardSchedule[KvSlots] = ForwardSchedule(
            lambda: KvSlots(pool), pool.num_blocks, min(sizes.context_length, kv_tokens), MAX_SCORES
        )
        self._token_counts = SessionTokenCounts()

    def open(self, session: int) -> None:
        self._token_counts.remove(session)
        self._schedule.open(session)

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        self._schedule.close(session)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for a request that cannot be drafted, INCOMPLETE until its context is prefilled."""
        start = time.perf_counter()
        proposals, scheduled = self._schedule.begin(requests, self._can_draft)
        if not scheduled:
            return proposals
        rows = [cache.scheduled_rows() for cache in scheduled]
        logits, new = self._model.run(_make_batch(scheduled, rows))
        first_row = first_logits = 0
        for cache, its_rows in zip(scheduled, rows, strict=True):
            num_rows = len(its_rows.tokens)
            cache.slots.write(len(its_rows.parents) - num_rows, new, first_row, first_row + num_rows)
            first_row += num_rows
            for place, i in enumerate(cache.finish(), first_logits):
                proposals[i] = self._propose(logits[place], requests[i])
            first_logits += len(its_rows.logit_rows)
        self._schedule.adapt_max_rows(first_row, time.perf_counter() - start)
        return proposals

    def _can_draft(self, request: DraftRequest) -> bool:
        return self._can_draft_all or max(request.context) < self._model.manifest.vocab_size

    def _propose(self, logits: np.ndarray, request: DraftRequest) -> Proposal:
        with self._token_counts.counts_at(request) as counts:
            return propose_from_logits(
                logits[: self._num_columns], self._ids, request.sampling, request.output_index, counts
            )


def _make_batch(caches: Sequence[SessionCache[KvSlots]], rows: Sequence[ScheduledRows]) -> DraftBatch:
    """The run of these rows: the sessions' slots side by side, and a mask that keeps them apart."""
    held = [cache.slots.length + len(r.parents) - len(r.tokens) for cache, r in zip(caches, rows, strict=True)]
    if len(caches) == 1:
        past = caches[0].slots.complete_view()
    else:
        past = np.concatenate([cache.slots.view(n) for cache, n in zip(caches, held, strict=True)], axis=2)
    num_rows, num_past = sum(len(r.tokens) for r in rows), max(1, past.shape[2])
    if past.shape[2] == 0:
        past = np.zeros((*past.shape[:2], 1, past.shape[3]), past.dtype)
    mask = np.full((num_rows, num_past + num_rows), MASKED, np.float32)
    tokens: list[int] = []
    positions: list[np.ndarray] = []
    logit_rows: list[int] = []
    first_slot = 0
    for cache, its_rows, num_held in zip(caches, rows, held, strict=True):
        length, first, count = cache.slots.length, len(tokens), len(its_rows.tokens)
        num_kept = num_held - length
        depths, paths = tree_paths(its_rows.parents)
        own = mask[first : first + count]
        own[:, first_slot : first_slot + length] = 0
        own[:, first_slot + length : first_slot + num_held][paths[num_kept:, :num_kept]] = 0
        own[:, num_past + first : num_past + first + count][paths[num_kept:, num_kept:]] = 0
        tokens += its_rows.tokens
        positions.append(length + depths[num_kept:])
        logit_rows += [first + row for row in its_rows.logit_rows]
        first_slot += num_held
    return DraftBatch(
        np.array(tokens, np.int64), np.concatenate(positions), mask, np.array(logit_rows or [0], np.int64), past
    )
