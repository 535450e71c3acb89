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

from edge_agent.drafters.interface import NOT_YET, NOTHING, Guesses, Point
from edge_agent.drafters.token_counts import Histories
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockTable, OutOfBlocks
from edgedraft.runtime.packed_model import PackedModel, SequenceRows
from edgedraft.sampling.sampler import propose

WIDTH = 6  # guesses a point
LEAST_SIBLING = 0.03  # guesses but the first are left out below this probability
FEWEST_ROWS, MOST_ROWS = 16, 1024  # bounds of what one forward runs
STEP_SECONDS = 0.06  # what a forward that is full may take


@dataclass(slots=True, eq=False)
class _Cached:
    """What the KV cache holds of one session: the keys and values of `tokens`."""

    sequence: BlockTable
    tokens: list[int] = field(default_factory=list)
    used: int = 0  # the step that last ran it

    def keep(self, length: int) -> None:
        self.sequence.truncate(length)
        del self.tokens[length:]


@dataclass(frozen=True, slots=True)
class _Job:
    """A point on its way through a forward: `rows` of its context from `start` on are run."""

    place: int
    cached: _Cached
    start: int
    rows: int
    finishes: bool


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
        self._longest = min(context_length, model.block_manager.num_tokens)
        self._vocab_size = vocab_size
        self._embedded = int(model.model.get_input_embeddings().weight.shape[0])  # type: ignore[arg-type]
        columns = int(model.model.get_output_embeddings().out_features)  # type: ignore[union-attr,arg-type]
        ids = torch.arange(columns, device=model.device) if head_ids is None else head_ids
        shared = ids < vocab_size
        self._columns = None if bool(shared.all()) else shared.nonzero()[:, 0]
        self._ids = None if head_ids is None and columns >= vocab_size else ids[shared]
        self._sessions: dict[int, _Cached] = {}
        self._histories = Histories()
        self._rows = 4 * FEWEST_ROWS
        self._step = 0

    def open(self, session: int) -> None:
        self.close(session)
        self._sessions[session] = _Cached(self._model.new_block_table())

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._histories.forget(session)
        cached = self._sessions.pop(session, None)
        if cached is not None:
            cached.keep(0)

    @torch.inference_mode()
    def expand(self, points: Sequence[Point]) -> list[Guesses]:
        """NOTHING for what it cannot draft, NOT_YET while the context has not been run to its end."""
        began = time.perf_counter()
        answers = [NOT_YET if self._can_draft(point) else NOTHING for point in points]
        jobs = self._plan(points, answers)
        if not jobs:
            return answers
        logits = self._model.forward(
            [
                SequenceRows(
                    job.cached.sequence,
                    points[job.place].context[job.start : job.start + job.rows],
                    logit_rows=[job.rows - 1] if job.finishes else [],
                )
                for job in jobs
            ]
        )
        for job in jobs:
            job.cached.sequence.keep_accepted(range(job.rows))
            job.cached.tokens += points[job.place].context[job.start : job.start + job.rows]
        for row, job in enumerate(job for job in jobs if job.finishes):
            answers[job.place] = self._guesses(logits[row : row + 1], points[job.place])
        self._pace(sum(job.rows for job in jobs), time.perf_counter() - began)
        return answers

    def _can_draft(self, point: Point) -> bool:
        if not 0 < len(point.context) <= self._longest:
            return False
        return self._vocab_size <= self._embedded or max(point.context) < self._embedded

    def _plan(self, points: Sequence[Point], answers: Sequence[Guesses]) -> list[_Job]:
        """Which rows of which session this forward runs: the shortest remainders first, then who waited longest."""
        self._step += 1
        remainders: list[tuple[int, int, int]] = []
        for place, point in enumerate(points):
            if answers[place] is NOT_YET:
                cached = self._sessions[point.session]
                # The last token is run in any case: its logits are what is asked for.
                cached.keep(min(common_prefix(cached.tokens, point.context), len(point.context) - 1))
                remainders.append((len(point.context) - len(cached.tokens), cached.used, place))
        jobs: list[_Job] = []
        rows_left = self._rows
        for rest, _, place in sorted(remainders):
            cached, start = self._sessions[points[place].session], len(points[place].context) - rest
            rows = min(rest, rows_left)
            if rows and self._make_room(cached, rows, rest, jobs):
                jobs.append(_Job(place, cached, start, rows, finishes=rows == rest))
                cached.used = self._step
                rows_left -= rows
        return jobs

    def _make_room(self, cached: _Cached, rows: int, rest: int, jobs: Sequence[_Job]) -> bool:
        """Reserve `rows`, pushing out who was drafted longest ago; False if `rest` does not fit beside the `jobs`."""
        held = sum(_blocks(job.start + job.rows) for job in jobs)
        if held + _blocks(len(cached.tokens) + rest) > self._model.block_manager.num_blocks:
            return False
        stay = [cached, *(job.cached for job in jobs)]
        while True:
            try:
                cached.sequence.reserve_slots(rows)
                return True
            except OutOfBlocks:
                others = [c for c in self._sessions.values() if c.sequence.holds_blocks and c not in stay]
                min(others, key=lambda other: other.used).keep(0)

    def _guesses(self, logits: torch.Tensor, point: Point) -> Guesses:
        """The best guesses of logits [1, columns]."""
        if self._columns is not None:
            logits = logits[:, self._columns]
        with self._histories.at(point) as history:
            tokens, probabilities = propose(
                logits, point.sampling, [point.index], WIDTH, self._ids, self._vocab_size, self._coupled, history
            )
        best = [
            (token, probability)
            for i, (token, probability) in enumerate(zip(tokens[0].tolist(), probabilities[0].tolist(), strict=True))
            if i == 0 or probability >= LEAST_SIBLING
        ]
        return Guesses(tuple(t for t, _ in best), (-1,) * len(best), tuple(p for _, p in best))

    def _pace(self, rows: int, seconds: float) -> None:
        """Fit the rows of a full forward to STEP_SECONDS."""
        if rows < self._rows:
            return
        if seconds > 1.5 * STEP_SECONDS:
            self._rows = max(FEWEST_ROWS, self._rows // 2)
        elif seconds < 0.6 * STEP_SECONDS:
            self._rows = min(MOST_ROWS, self._rows * 2)


def _blocks(tokens: int) -> int:
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
