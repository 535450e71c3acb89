"""The draft model as a drafter: one packed forward for the points of all sessions, keys and values kept between them.

Of each session the cache holds the tokens of the last path that was run. The next point's context is compared with
them, what differs is forgotten, and only the rest is run: one row while drafting goes down a path, a few after a miss.
Long contexts come in chunks, sized so that a step stays short and no other session waits. When the cache is full, the
sessions least recently drafted are pushed out and run anew when their turn comes.

What it leaves to others: at which point to draft, and what is worth sending (session.py).
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

MAX_CANDIDATES = 6  # guesses a point
MIN_SIBLING_PROBABILITY = 0.03  # guesses but the first are left out below this probability
MIN_ROWS, MAX_ROWS = 16, 1024  # bounds of what one forward runs
MAX_FORWARD_SECONDS = 0.06  # what a forward that is full may take


@dataclass(slots=True, eq=False)
class _SessionCache:
    """What the KV cache holds of one session: the keys and values of `tokens`."""

    blocks: BlockTable
    tokens: list[int] = field(default_factory=list)
    last_step: int = 0  # the step that last ran it

    def truncate(self, length: int) -> None:
        self.blocks.truncate(length)
        del self.tokens[length:]


@dataclass(frozen=True, slots=True)
class _ScheduledRows:
    """A point on its way through a forward: `rows` of its context from `start` on are run."""

    request_index: int
    cache: _SessionCache
    start: int
    num_rows: int
    completes: bool


class ModelDrafter:
    """Drafts with a packed model, whose KV cache it has for itself until every session is closed."""

    def __init__(
        self,
        model: PackedModel,
        context_length: int,
        vocab_size: int,
        head_ids: torch.Tensor | None = None,
        coupled: bool = True,
    ) -> None:
        """`vocab_size` is the target's, `head_ids` the token id of each of the draft's logits if its head is cut.

        `coupled` adds the noise of the target's choice (sampling.guess); without it, that is to see what it is worth.
        Contexts longer than `context_length` or than the KV cache get no guesses, nor do tokens without an embedding.
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
        cached = self._sessions.pop(session, None)
        if cached is not None:
            cached.truncate(0)

    @torch.inference_mode()
    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        """NOTHING for what it cannot draft, NOT_YET while the context has not been run to its end."""
        began = time.perf_counter()
        proposals = [INCOMPLETE if self._can_draft(point) else NO_PROPOSAL for point in requests]
        jobs = self._schedule(requests, proposals)
        if not jobs:
            return proposals
        logits = self._model.forward(
            [
                SequenceRows(
                    job.cache.blocks,
                    requests[job.request_index].context[job.start : job.start + job.num_rows],
                    logit_rows=[job.num_rows - 1] if job.completes else [],
                )
                for job in jobs
            ]
        )
        for job in jobs:
            job.cache.blocks.keep_accepted(range(job.num_rows))
            job.cache.tokens += requests[job.request_index].context[job.start : job.start + job.num_rows]
        for row, job in enumerate(job for job in jobs if job.completes):
            proposals[job.request_index] = self._proposal(logits[row : row + 1], requests[job.request_index])
        self._adapt_max_rows(sum(job.num_rows for job in jobs), time.perf_counter() - began)
        return proposals

    def _can_draft(self, point: DraftRequest) -> bool:
        if not 0 < len(point.context) <= self._max_context:
            return False
        return self._vocab_size <= self._num_embeddings or max(point.context) < self._num_embeddings

    def _schedule(self, requests: Sequence[DraftRequest], proposals: Sequence[Proposal]) -> list[_ScheduledRows]:
        """Which rows of which session this forward runs: the shortest remainders first, then who waited longest."""
        self._step += 1
        remainders: list[tuple[int, int, int]] = []
        for place, point in enumerate(requests):
            if proposals[place] is INCOMPLETE:
                cached = self._sessions[point.session]
                # The last token is run in any case: its logits are what is asked for.
                cached.truncate(min(common_prefix(cached.tokens, point.context), len(point.context) - 1))
                remainders.append((len(point.context) - len(cached.tokens), cached.last_step, place))
        jobs: list[_ScheduledRows] = []
        rows_left = self._max_rows
        for rest, _, place in sorted(remainders):
            cached, start = self._sessions[requests[place].session], len(requests[place].context) - rest
            rows = min(rest, rows_left)
            if rows and self._make_room(cached, rows, rest, jobs):
                jobs.append(_ScheduledRows(place, cached, start, rows, completes=rows == rest))
                cached.last_step = self._step
                rows_left -= rows
        return jobs

    def _make_room(self, cached: _SessionCache, rows: int, rest: int, jobs: Sequence[_ScheduledRows]) -> bool:
        """Reserve `rows`, pushing out who was drafted longest ago; False if `rest` does not fit beside the `jobs`."""
        held = sum(_num_blocks(job.start + job.num_rows) for job in jobs)
        if held + _num_blocks(len(cached.tokens) + rest) > self._model.block_manager.num_blocks:
            return False
        stay = [cached, *(job.cache for job in jobs)]
        while True:
            try:
                cached.blocks.reserve_slots(rows)
                return True
            except OutOfBlocks:
                others = [c for c in self._sessions.values() if c.blocks.holds_blocks and c not in stay]
                min(others, key=lambda other: other.last_step).truncate(0)

    def _proposal(self, logits: torch.Tensor, point: DraftRequest) -> Proposal:
        """The best guesses of logits [1, columns]."""
        if self._columns is not None:
            logits = logits[:, self._columns]
        with self._token_counts.counts_at(point) as history:
            tokens, probabilities = propose_tokens(
                logits,
                point.sampling,
                [point.output_index],
                MAX_CANDIDATES,
                self._ids,
                self._vocab_size,
                self._coupled,
                history,
            )
        best = [
            (token, probability)
            for i, (token, probability) in enumerate(zip(tokens[0].tolist(), probabilities[0].tolist(), strict=True))
            if i == 0 or probability >= MIN_SIBLING_PROBABILITY
        ]
        return Proposal(tuple(t for t, _ in best), (-1,) * len(best), tuple(p for _, p in best))

    def _adapt_max_rows(self, rows: int, seconds: float) -> None:
        """Fit the rows of a full forward to STEP_SECONDS."""
        if rows < self._max_rows:
            return
        if seconds > 1.5 * MAX_FORWARD_SECONDS:
            self._max_rows = max(MIN_ROWS, self._max_rows // 2)
        elif seconds < 0.6 * MAX_FORWARD_SECONDS:
            self._max_rows = min(MAX_ROWS, self._max_rows * 2)


def _num_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts share from their beginning on; whole slices are compared, which is fast in C."""
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
