"""A session's choices at the rows of a step: all rows at once where they can be, else one by one along the walk.

What depends on the path (penalties, a grammar) is known only where the walk goes, and the walk goes to few of the rows
that a draft has. So such a session chooses when it gets there, from the text up to there. Also the log-probabilities
of what was chosen, which are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edgedraft.sampling.sampler import sample, sample_after
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.tree import DraftSlice
from edgedraft.wire import FinishReason, TokenLogprobs
from verifier.engine.grammar import Constraint
from verifier.engine.interface import Request

Choice = Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """How far a session came in a step: the tokens chosen, and the indices of the draft's nodes that are among them."""

    tokens: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


class Verification:
    """One session's. What it chooses is final: with each choice the text that it knows of grows."""

    def __init__(self, request: Request, constraint: Constraint | None) -> None:
        self._request = request
        self._sampling = request.sampling
        self._constraint = constraint
        self._history = (
            TokenCounts(request.sampling, request.prompt, request.committed)
            if has_penalties(request.sampling)
            else None
        )

    def verify(self, logits: torch.Tensor, first: int, draft: DraftSlice) -> VerifyResult:
        """Choose, and go down the draft while the choice is a child, from output index `first` on.

        Row 0 of logits [1 + nodes, vocab] is behind the text, the others are behind the draft's nodes.
        """
        request = self._request
        choice = self._over(logits, [first, *(first + depth for depth in draft.depths)])
        children = {
            (parent, token): i for i, (parent, token) in enumerate(zip(draft.parents, draft.tokens, strict=True))
        }
        tokens: list[int] = []
        path: list[int] = []
        node = -1
        finish: FinishReason | None = None
        while finish is None:
            token = choice(node + 1)
            if token is None:
                finish = "length"  # a grammar that failed: to the client this text is unfinished
                break
            tokens.append(token)
            if token in request.eos or (self._constraint is not None and self._constraint.is_complete):
                finish = "stop"
            elif first + len(tokens) >= request.max_tokens:
                finish = "length"
            child = children.get((node, token))
            if child is None:
                break
            node = child
            path.append(child)
        logprobs: tuple[TokenLogprobs, ...] = ()
        if request.logprobs >= 0:
            rows = [0, *(i + 1 for i in path)][: len(tokens)]
            logprobs = logprobs_of(logits[rows], tokens, request.logprobs)
        return VerifyResult(tuple(tokens), tuple(path), finish, logprobs)

    def _over(self, logits: torch.Tensor, indices: Sequence[int]) -> Choice:
        """What tells the choice at a row of logits [rows, vocab], which decides that output index.

        Rows are asked for in the order of the walk. None is the answer of a grammar that has failed.
        """
        if self._history is None and self._constraint is None:
            return sample(logits, self._sampling, indices).__getitem__
        return lambda row: self._next(logits[row : row + 1], indices[row])

    def _next(self, logits: torch.Tensor, index: int) -> int | None:
        allowed = None
        if self._constraint:
            mask = self._constraint.allowed_tokens(logits.shape[-1])
            if mask is None:
                return None
            allowed = torch.from_numpy(mask).to(logits.device)
        token = sample_after(logits, self._sampling, index, self._history, allowed)
        if self._history:
            self._history.extend([token])
        if self._constraint:
            self._constraint.accept_token(token)
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
