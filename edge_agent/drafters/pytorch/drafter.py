"""The draft model as a drafter: one packed forward for the requests of all sessions, with KV cache reuse between them.

The requests of one session are positions in one draft tree. The KV cache holds the tree's computed rows beside the
committed text (forwards/session_cache.py), so a forward runs only tokens that no forward has run before, and the last
token of a request, for its logits. forwards/schedule.py chooses the rows of each forward.

This module does not decide where in a tree to draft or what is sent (drafting/draft_session.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from edge_agent.drafters.forwards.schedule import ForwardSchedule
from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.proposals.from_logits import MAX_CANDIDATES, make_proposal
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edgedraft.runtime.block_manager import BlockTable
from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.sampling.token_counts import has_penalties


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
        self._vocab_size = vocab_size
        self._num_embeddings = int(model.model.get_input_embeddings().weight.shape[0])  # type: ignore[arg-type]
        columns = int(model.model.get_output_embeddings().out_features)  # type: ignore[union-attr,arg-type]
        ids = torch.arange(columns, device=model.device) if head_ids is None else head_ids
        shared = ids < vocab_size
        self._columns = None if bool(shared.all()) else shared.nonzero()[:, 0]
        self._ids = None if head_ids is None and columns >= vocab_size else ids[shared]
        self._token_counts = SessionTokenCounts()
        manager = model.block_manager
        self._schedule: ForwardSchedule[BlockTable] = ForwardSchedule(
            model.new_block_table, manager.num_blocks, min(context_length, manager.num_tokens)
        )

    def open(self, session: int) -> None:
        self._token_counts.remove(session)
        self._schedule.open(session)

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._token_counts.remove(session)
        self._schedule.close(session)

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """Return NO_PROPOSAL for a request that cannot be drafted, INCOMPLETE until its context is prefilled."""
        start = time.perf_counter()
        proposals, scheduled = self._schedule.begin(requests, self._can_draft)
        if not scheduled:
            return proposals
        rows: list[SequenceRows] = []
        for cache in scheduled:
            its_rows = cache.scheduled_rows()
            rows.append(SequenceRows(cache.slots, its_rows.tokens, its_rows.parents, its_rows.logit_rows))
        logits = self._model.forward(rows)
        for cache, its_logits in zip(scheduled, logits.split([len(r.logit_rows) for r in rows]), strict=True):
            completed = cache.finish()
            found = self._proposals(its_logits, [requests[i] for i in completed])
            for i, proposal in zip(completed, found, strict=True):
                proposals[i] = proposal
        self._schedule.adapt_max_rows(sum(len(r.tokens) for r in rows), time.perf_counter() - start)
        return proposals

    def _can_draft(self, request: DraftRequest) -> bool:
        return self._vocab_size <= self._num_embeddings or max(request.context) < self._num_embeddings

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
        return [make_proposal(*row) for row in zip(tokens.tolist(), probabilities.tolist(), strict=True)]
