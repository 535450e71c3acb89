"""A session's choices at the rows of a step: all rows at once where they can be, else one by one along the walk.

What depends on the path (penalties, a grammar) is known only where the walk goes, and the walk goes to few of the rows
that a draft has. So such a session chooses when it gets there, from the text up to there. Also the log-probabilities
of what was chosen, which are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edgedraft.history import History, penalises
from edgedraft.sampling import choose, choose_behind
from edgedraft.wire import TokenLogprobs
from verifier.engine import Request
from verifier.grammar import Constraint

Choice = Callable[[int], int | None]


class Choices:
    """One session's. What it chooses is final: with each choice the text that it knows of grows."""

    def __init__(self, request: Request, constraint: Constraint | None) -> None:
        self._sampling = request.sampling
        self._constraint = constraint
        self._history = (
            History(request.sampling, request.prompt, request.committed) if penalises(request.sampling) else None
        )

    @property
    def ended(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._constraint is not None and self._constraint.ended

    def over(self, logits: torch.Tensor, indices: Sequence[int]) -> Choice:
        """What tells the choice at a row of logits [rows, vocab], which decides that output index.

        Rows are asked for in the order of the walk. None is the answer of a grammar that has failed.
        """
        if self._history is None and self._constraint is None:
            return choose(logits, self._sampling, indices).__getitem__
        return lambda row: self._next(logits[row : row + 1], indices[row])

    def _next(self, logits: torch.Tensor, index: int) -> int | None:
        allowed = None
        if self._constraint:
            mask = self._constraint.allowed(logits.shape[-1])
            if mask is None:
                return None
            allowed = torch.from_numpy(mask).to(logits.device)
        token = choose_behind(logits, self._sampling, index, self._history, allowed)
        if self._history:
            self._history.extend([token])
        if self._constraint:
            self._constraint.take(token)
        return token


def logprobs_of(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> tuple[TokenLogprobs, ...]:
    """Of each token its log-probability in its row of logits [tokens, vocab], in float32, and the best of the row."""
    if not tokens:
        return ()
    every = logits.float().log_softmax(dim=-1)
    own = every.gather(-1, torch.tensor(tokens, device=every.device)[:, None])[:, 0].tolist()
    top = every.topk(min(alternatives, every.shape[-1]), dim=-1)
    return tuple(
        TokenLogprobs(logprob, best, theirs)
        for logprob, best, theirs in zip(own, top.indices.tolist(), top.values.tolist(), strict=True)
    )
