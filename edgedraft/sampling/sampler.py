"""Samples the next token from logits: argmax over (processed log-probabilities / temperature + Gumbel noise).

Bias and penalties are applied first (penalties.py), then a grammar's mask, the temperature, and top_k, top_p and min_p.
The verifier samples the target's tokens with it. An agent that knows the noise (noise.py) can propose the token that
the target is going to sample (Gumbel coupling, Daliri et al. 2024, arXiv 2408.07978). A constant added to a row does
not move its argmax, so logits are used in place of log-probabilities. Every filter is a threshold on values, never on
ranks, so ties do not depend on the order of a sort. Needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from edgedraft.sampling.noise import gumbel_at, gumbel_rows
from edgedraft.sampling.penalties import apply_bias, apply_penalties, divide
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling

TOP_P_CANDIDATES = 256  # tokens to which top_p is applied before the complete row is sorted
SPARSE_RATIO = 8  # where fewer than one token in 8 is allowed, noise is cheaper to draw per token than per row


def apply_filters(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """logits [rows, vocab] / temperature (> 0), with -inf where top_k, top_p or min_p exclude a token; float32.

    The order is that of transformers' generate: temperature, top_k, top_p, min_p, each on what the one before left.
    """
    z = divide(logits.float(), sampling.temperature)
    if 0 < sampling.top_k < z.shape[-1]:
        z = z.masked_fill(z < z.topk(sampling.top_k, dim=-1).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        z = z.masked_fill(z < _top_p_threshold(z, sampling.top_p), -torch.inf)
    if sampling.min_p > 0:
        z = z.masked_fill(z < z.amax(dim=-1, keepdim=True) + math.log(sampling.min_p), -torch.inf)
    return z


def _top_p_threshold(z: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest value [rows, 1] among the most probable tokens that together reach top_p.

    A few tokens usually do, so the row is rarely sorted completely.
    """
    p = z.softmax(dim=-1)
    for count in (min(TOP_P_CANDIDATES, p.shape[-1]), p.shape[-1]):
        top = z.topk(count, dim=-1)
        mass = p.gather(-1, top.indices)
        kept = (mass.cumsum(dim=-1) - mass) < top_p  # the mass before the token; the first token is always kept
        if not bool(kept[:, -1].any()):
            break
    return top.values.masked_fill(~kept, torch.inf).amin(dim=-1, keepdim=True)


def gumbel_noise(sampling: Sampling, indices: Sequence[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """g(seed, indices[r], v) as a float32 tensor [rows, vocab]; each distinct index is drawn once."""
    distinct = sorted(set(indices))
    seeds = [sampling.seed] * len(distinct)
    if device.type == "cpu":
        noise = torch.from_numpy(gumbel_rows(seeds, distinct, vocab_size))  # the same bits, in half the time
    else:
        noise = gumbel_rows(seeds, distinct, vocab_size, device)
    if len(distinct) == len(indices) and list(indices) == distinct:
        return noise
    row_of = {index: row for row, index in enumerate(distinct)}
    return noise[torch.tensor([row_of[index] for index in indices], device=device)]


def sample_rows(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int]) -> list[int]:
    """The target's tokens: row r of logits [rows, vocab] is for output index indices[r] of one session.

    Ignores sampling's penalties and grammar, which depend on the path: see sample_next.
    """
    return _sample(apply_bias(logits, sampling) if sampling.logit_bias else logits, sampling, indices)


def sample_next(
    logits: torch.Tensor,
    sampling: Sampling,
    index: int,
    token_counts: TokenCounts | None = None,
    allowed: torch.Tensor | None = None,
) -> int:
    """The target's token at output index `index`, from logits [1, vocab] that follow the text of `token_counts`.

    `allowed` is a grammar's mask, bool [vocab] on the logits' device, with at least one True.
    """
    z = apply_penalties(logits, sampling, token_counts)
    if allowed is None:
        return _sample(z, sampling, [index])[0]
    sparse = SPARSE_RATIO * int(allowed.count_nonzero()) < len(allowed)
    return _sample(z.masked_fill_(~allowed, -torch.inf), sampling, [index], sparse)[0]


def _sample(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int], sparse: bool = False) -> list[int]:
    """`sparse` states that most logits are -inf."""
    if sampling.temperature == 0:
        return argmax_rows(logits)
    z = apply_filters(logits, sampling)
    if logits.device.type == "cpu" and (sparse or sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return [_sample_sparse(row, sampling.seed, index) for row, index in zip(z.numpy(), indices, strict=True)]
    return argmax_rows(z + gumbel_noise(sampling, indices, logits.shape[-1], logits.device))


def _sample_sparse(z: np.ndarray, seed: int, index: int) -> int:
    """The token of one row [vocab] that is mostly -inf: noise is drawn for the remaining tokens only."""
    tokens = np.flatnonzero(z > -np.inf)
    return int(tokens[(z[tokens] + gumbel_at(seed, index, tokens)).argmax()])


def argmax_rows(scores: torch.Tensor) -> list[int]:
    """The column of each row's largest score [rows, columns]; of equal scores the first."""
    if scores.device.type == "cpu":
        # torch's own argmax takes ten times as long, and thirty times in bfloat16.
        return scores.float().numpy().argmax(axis=-1).tolist()
    return scores.argmax(dim=-1).tolist()


@lru_cache(maxsize=64)
def _cached_noise(seed: int, index: int, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The noise of one output index [1, vocab]. A drafter needs it for every branch of its tree."""
    return gumbel_noise(Sampling(seed=seed), [index], vocab_size, device)


def propose_tokens(
    logits: torch.Tensor,
    sampling: Sampling,
    indices: Sequence[int],
    width: int,
    column_ids: torch.Tensor | None = None,
    vocab_size: int = 0,
    coupled: bool = True,
    token_counts: TokenCounts | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` tokens per row that the target is most likely to sample: (tokens, probabilities), each [rows, width].

    `logits` are a draft model's. One with a reduced output head passes `column_ids` int64 [columns], the token of each
    column, and the target's `vocab_size`. Where sampling has penalties, all rows follow the text of `token_counts`.

    The probabilities are the softmax of log-probability + temperature * noise: at temperature 0 the draft model's own
    distribution, above that sharpened by the noise that both sides share. `coupled=False` omits the noise (benchmarks
    measure what it gains).
    """
    if token_counts is not None or sampling.logit_bias:
        logits = _penalise_columns(logits, sampling, column_ids, vocab_size, token_counts)
    z = logits.float()
    if sampling.temperature > 0:
        z = apply_filters(logits, sampling)
        if coupled:
            size = vocab_size or logits.shape[-1]
            g = torch.cat([_cached_noise(sampling.seed, index, size, logits.device) for index in indices])
            z = z + (g if column_ids is None else g[:, column_ids])
        z = z * sampling.temperature
    top = z.softmax(dim=-1).topk(min(width, z.shape[-1]), dim=-1)
    tokens = top.indices if column_ids is None else column_ids[top.indices]
    return tokens, top.values


def _penalise_columns(
    logits: torch.Tensor,
    sampling: Sampling,
    column_ids: torch.Tensor | None,
    vocab_size: int,
    token_counts: TokenCounts | None,
) -> torch.Tensor:
    """logits [rows, columns] with bias and penalties, which go by token id."""
    if column_ids is None:
        return apply_penalties(logits, sampling, token_counts)
    scattered = logits.new_full((logits.shape[0], vocab_size), -torch.inf)
    scattered[:, column_ids] = logits
    return apply_penalties(scattered, sampling, token_counts)[:, column_ids]
