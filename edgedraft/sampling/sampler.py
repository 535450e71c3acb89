"""From logits to the one token that invariant 1 names: argmax of processed log-probabilities / temperature + g.

Used by the verifier to choose and by the agent to guess the same choice (Gumbel coupling, Daliri et al. 2024,
arXiv 2408.07978). Bias and penalties act first (penalties.py), then a grammar's mask, then the temperature, then
top_k, top_p and min_p. Constants that a row shares do not move its argmax, so logits stand for log-probabilities. Every
filter is a threshold on values, never a rank, so ties cannot depend on the order of a sort.

This file needs torch; the parameters themselves are wire.Sampling, the noise is noise.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from edgedraft.sampling.noise import gumbel_at, gumbel_rows
from edgedraft.sampling.penalties import apply_bias, apply_penalties
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling

NUCLEUS = 256  # tokens looked at first when top_p cuts
FEW = 8  # noise for less than one token in so many is cheaper to draw token by token


def apply_filters(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """logits [rows, vocab] over the temperature (> 0), -inf where top_k, top_p or min_p cut; float32.

    Temperature acts first, then top_k, top_p and min_p on what is left, as in transformers' generate.
    """
    z = logits.float() / sampling.temperature
    if 0 < sampling.top_k < z.shape[-1]:
        z = z.masked_fill(z < z.topk(sampling.top_k, dim=-1).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        z = z.masked_fill(z < _least_inside(z, sampling.top_p), -torch.inf)
    if sampling.min_p > 0:
        z = z.masked_fill(z < z.amax(dim=-1, keepdim=True) + math.log(sampling.min_p), -torch.inf)
    return z


def _least_inside(z: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest value [rows, 1] of the most probable tokens that together reach top_p.

    Few tokens usually do, so that the row need not be sorted whole.
    """
    p = z.softmax(dim=-1)
    for count in (min(NUCLEUS, p.shape[-1]), p.shape[-1]):
        top = z.topk(count, dim=-1)
        mass = p.gather(-1, top.indices)
        inside = (mass.cumsum(dim=-1) - mass) < top_p  # mass before the token; the first is always inside
        if not bool(inside[:, -1].any()):
            break
    return top.values.masked_fill(~inside, torch.inf).amin(dim=-1, keepdim=True)


def gumbel_noise(sampling: Sampling, indices: Sequence[int], vocab_size: int, device: torch.device) -> torch.Tensor:
    """g(seed, indices[r], v) as a float32 tensor [rows, vocab]; each distinct index is drawn once."""
    distinct = sorted(set(indices))
    seeds = [sampling.seed] * len(distinct)
    if device.type == "cpu":
        rows = torch.from_numpy(gumbel_rows(seeds, distinct, vocab_size))  # the same bits, in half the time
    else:
        rows = gumbel_rows(seeds, distinct, vocab_size, device)
    if len(distinct) == len(indices) and list(indices) == distinct:
        return rows
    place = {index: row for row, index in enumerate(distinct)}
    return rows[torch.tensor([place[index] for index in indices], device=device)]


def sample(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int]) -> list[int]:
    """The target's tokens: row r of logits [rows, vocab] decides output index indices[r] of one session.

    For choices that do not depend on the path: of sampling's penalties and grammar it knows nothing.
    """
    return _sample(apply_bias(logits, sampling) if sampling.logit_bias else logits, sampling, indices)


def sample_after(
    logits: torch.Tensor,
    sampling: Sampling,
    index: int,
    history: TokenCounts | None = None,
    allowed: torch.Tensor | None = None,
) -> int:
    """The target's token at output index `index`: logits [1, vocab] are those behind the text of `history`.

    A grammar's mask is `allowed` [vocab], bool, on the device of the logits, with one True at least.
    """
    z = apply_penalties(logits, sampling, history)
    if allowed is None:
        return _sample(z, sampling, [index])[0]
    few = FEW * int(allowed.count_nonzero()) < len(allowed)
    return _sample(z.masked_fill_(~allowed, -torch.inf), sampling, [index], few)[0]


def _sample(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int], few: bool = False) -> list[int]:
    """`few` tells that most logits are -inf."""
    if sampling.temperature == 0:
        return argmax(logits)
    z = apply_filters(logits, sampling)
    if logits.device.type == "cpu" and (few or sampling.top_k or sampling.top_p < 1 or sampling.min_p):
        return [_best_of_few(row, sampling.seed, index) for row, index in zip(z.numpy(), indices, strict=True)]
    return argmax(z + gumbel_noise(sampling, indices, logits.shape[-1], logits.device))


def _best_of_few(z: np.ndarray, seed: int, index: int) -> int:
    """The choice of one row [vocab] of which most is -inf: noise is drawn for the rest alone."""
    tokens = np.flatnonzero(z > -np.inf)
    return int(tokens[(z[tokens] + gumbel_at(seed, index, tokens)).argmax()])


def argmax(scores: torch.Tensor) -> list[int]:
    """The column of each row's largest score, the first of equals."""
    if scores.device.type == "cpu":
        return (
            scores.float().numpy().argmax(axis=-1).tolist()
        )  # torch's own takes ten times as long, in bfloat16 thirty
    return scores.argmax(dim=-1).tolist()


@lru_cache(maxsize=64)
def _row(seed: int, index: int, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The noise of one output index [1, vocab]. A drafter asks for it at every branch of its tree."""
    return gumbel_noise(Sampling(seed=seed), [index], vocab_size, device)


def propose(
    logits: torch.Tensor,
    sampling: Sampling,
    indices: Sequence[int],
    width: int,
    ids: torch.Tensor | None = None,
    vocab_size: int = 0,
    coupled: bool = True,
    history: TokenCounts | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A drafter's `width` best guesses a row of what `choose` will answer: (tokens, probabilities), [rows, width].

    A draft with a cut output head passes `ids`, the token of each column, and the target's `vocab_size`. The
    probability of being the choice is taken as the softmax of log-probability + temperature * noise: at temperature 0
    the draft's own distribution, else sharpened by the noise that both sides share. `coupled=False` leaves the noise
    out, to measure what it is worth. Where sampling has penalties, all rows are at places behind the text of `history`.
    """
    if history is not None or sampling.logit_bias:
        logits = _adjusted_columns(logits, sampling, ids, vocab_size, history)
    z = logits.float()
    if sampling.temperature > 0:
        z = apply_filters(logits, sampling)
        if coupled:
            g = torch.cat([_row(sampling.seed, i, vocab_size or logits.shape[-1], logits.device) for i in indices])
            z = z + (g if ids is None else g[:, ids])
        z = z * sampling.temperature
    top = z.softmax(dim=-1).topk(min(width, z.shape[-1]), dim=-1)
    tokens = top.indices if ids is None else ids[top.indices]
    return tokens, top.values


def _adjusted_columns(
    logits: torch.Tensor, sampling: Sampling, ids: torch.Tensor | None, vocab_size: int, history: TokenCounts | None
) -> torch.Tensor:
    """Logits with bias and penalties, which are by token id, where column c may be the token ids[c]."""
    if ids is None:
        return apply_penalties(logits, sampling, history)
    whole = logits.new_full((logits.shape[0], vocab_size), -torch.inf)
    whole[:, ids] = logits
    return apply_penalties(whole, sampling, history)[:, ids]
