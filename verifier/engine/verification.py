"""Verification of one session's draft: samples the target's token at each node of the path and accepts matching nodes.

Sampling parameters that depend on the path (penalties, grammars) are applied only at the nodes that verification
reaches, with the text up to there; a session without any of them samples all rows at once. min_tokens depends on
the position alone. Log-probabilities of the sampled tokens are the model's own, before any processing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edgedraft.sampling.sampler import sample_next, sample_rows
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.tree import DraftSlice
from edgedraft.wire import FinishReason, TokenLogprobs
from verifier.engine.grammar import Constraint
from verifier.engine.interface import Request

GRAMMAR_FAILED = "the grammar cannot be followed any further within its limits of work"

SampleRow = Callable[[int], int | None]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a step committed for a session: its tokens, and the indices `path` of the draft nodes among them.

    `failure` says why nothing can follow, although the text is not finished.
    """

    tokens: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    finish: FinishReason | None = None
    failure: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()


class Verification:
    """Verifies one session's drafts. Stateful: each sampled token extends the session's token counts and grammar."""

    def __init__(self, request: Request, constraint: Constraint | None) -> None:
        self._request = request
        self._sampling = request.sampling
        self._constraint = constraint
        self._token_counts = (
            TokenCounts(request.sampling, request.prompt, request.committed)
            if has_penalties(request.sampling)
            else None
        )

    def verify(self, logits: torch.Tensor, first: int, draft: DraftSlice) -> VerifyResult:
        """Sample from the end of the text down the draft, for as long as the sampled token is a child node.

        `logits` is [1 + nodes, vocab]: row 0 follows the text, row 1 + i follows node i. `first` is the output index of
        the first token.
        """
        request = self._request
        sample_row = self._row_sampler(logits, [first, *(first + depth for depth in draft.depths)])
        children = {
            (parent, token): i for i, (parent, token) in enumerate(zip(draft.parents, draft.tokens, strict=True))
        }
        tokens: list[int] = []
        path: list[int] = []
        node = -1
        finish: FinishReason | None = None
        failure = ""
        while finish is None:
            token = sample_row(node + 1)
            if token is None:
                failure = GRAMMAR_FAILED
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
            logprobs = compute_logprobs(logits[rows], tokens, request.logprobs)
        return VerifyResult(tuple(tokens), tuple(path), finish, failure, logprobs)

    def _row_sampler(self, logits: torch.Tensor, output_indices: Sequence[int]) -> SampleRow:
        """A function that samples a row of `logits` [rows, vocab]; row i is for output index `output_indices`[i].

        Rows must be sampled along one path. None means that the grammar has failed.
        """
        if self._token_counts is None and self._constraint is None:
            early = [row for row, index in enumerate(output_indices) if index < self._sampling.min_tokens]
            if early and (ends := self._end_tokens(logits.shape[-1])):
                logits = logits.clone()
                logits[torch.tensor(early)[:, None], torch.tensor(ends)] = -torch.inf
            return sample_rows(logits, self._sampling, output_indices).__getitem__
        return lambda row: self._sample_row(logits[row : row + 1], output_indices[row])

    def _end_tokens(self, vocab_size: int) -> list[int]:
        return [token for token in self._request.eos if 0 <= token < vocab_size]

    def _sample_row(self, logits: torch.Tensor, output_index: int) -> int | None:
        allowed = None
        if self._constraint:
            mask = self._constraint.allowed_tokens(logits.shape[-1])
            if mask is None:
                return None
            allowed = torch.from_numpy(mask).to(logits.device)
        if output_index < self._sampling.min_tokens and (ends := self._end_tokens(logits.shape[-1])):
            going_on = torch.ones_like(logits[0], dtype=torch.bool) if allowed is None else allowed.clone()
            going_on[ends] = False
            if going_on.any():  # a grammar that is complete allows nothing but the end
                allowed = going_on
        token = sample_next(logits, self._sampling, output_index, self._token_counts, allowed)
        if self._token_counts:
            self._token_counts.extend([token])
        if self._constraint:
            self._constraint.accept_token(token)
        return token


def compute_logprobs(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> tuple[TokenLogprobs, ...]:
    """Float32 log-probabilities: for each row of `logits` [tokens, vocab] its token's and the `alternatives` best."""
    if not tokens:
        return ()
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(tokens, device=logprobs.device)[:, None])[:, 0].tolist()
    top = logprobs.topk(min(alternatives, logprobs.shape[-1]), dim=-1)
    return tuple(
        TokenLogprobs(logprob, top_tokens, top_logprobs)
        for logprob, top_tokens, top_logprobs in zip(own, top.indices.tolist(), top.values.tolist(), strict=True)
    )
