"""From a draft model's logits to a proposal, in NumPy: for drafters that need no torch.

Does what edgedraft/sampling/sampler.py does in torch: bias and penalties, temperature and filters, the target's noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.drafters.interface import Proposal
from edgedraft.sampling.noise import gumbel_at
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling

MAX_CANDIDATES = 6  # per request
MIN_SIBLING_PROBABILITY = 0.03  # all candidates but the first are dropped below it
# Noise is drawn for this many of the most likely tokens: of all 49,152 it takes as long as a small model's forward.
SAMPLED_TOKENS = 1024


def make_proposal(tokens: Sequence[int], probabilities: Sequence[float]) -> Proposal:
    """Candidates, best first, without the unlikely ones."""
    best = [
        (token, probability)
        for i, (token, probability) in enumerate(zip(tokens, probabilities, strict=True))
        if i == 0 or probability >= MIN_SIBLING_PROBABILITY
    ]
    return Proposal(tuple(t for t, _ in best), (-1,) * len(best), tuple(p for _, p in best))


def propose_from_logits(
    logits: np.ndarray, tokens: np.ndarray, sampling: Sampling, index: int, token_counts: TokenCounts | None = None
) -> Proposal:
    """Propose the tokens that the target is most likely to sample at output index `index`.

    `logits` float [n] are a draft model's for `tokens` int64 [n], which ascend; other tokens count as impossible. Where
    sampling has penalties, they follow the text of `token_counts`.
    """
    z = _penalise(logits.astype(np.float32), tokens, sampling, token_counts)
    if sampling.temperature > 0:
        if len(z) > SAMPLED_TOKENS:
            likely = np.sort(np.argpartition(-z, SAMPLED_TOKENS)[:SAMPLED_TOKENS])
            z, tokens = z[likely], tokens[likely]
        kept = _filter(z / np.float32(sampling.temperature), sampling)
        z, tokens = z[kept] / np.float32(sampling.temperature), tokens[kept]
        z = (z + gumbel_at(sampling.seed, index, tokens)) * np.float32(sampling.temperature)
    return propose_best(softmax(z), tokens)


def propose_best(probabilities: np.ndarray, tokens: np.ndarray) -> Proposal:
    """Propose the most likely of `tokens` int64 [n], whose probabilities are [n]."""
    width = min(MAX_CANDIDATES, len(tokens))
    best = np.argpartition(-probabilities, width - 1)[:width]
    best = best[np.argsort(-probabilities[best], kind="stable")]
    return make_proposal(tokens[best].tolist(), np.minimum(probabilities[best], 1.0).tolist())


def softmax(z: np.ndarray) -> np.ndarray:
    """Probabilities [n] of logits [n]."""
    p = np.exp(z - z.max())
    return p / p.sum()


def _penalise(z: np.ndarray, tokens: np.ndarray, sampling: Sampling, token_counts: TokenCounts | None) -> np.ndarray:
    """Add bias and penalties to logits [n] in place, as edgedraft/sampling/penalties.py does."""
    if sampling.logit_bias:
        biased = np.fromiter(sampling.logit_bias, np.int64)
        columns, known = _columns(tokens, biased)
        z[columns] += np.fromiter(sampling.logit_bias.values(), np.float32)[known]
    if token_counts is None:
        return z
    counted, counts = token_counts.to_arrays()
    columns, known = _columns(tokens, counted)
    penalised, counts = z[columns], counts[known]
    if sampling.repetition_penalty != 1:
        penalty = np.float32(sampling.repetition_penalty)
        penalised = np.where(penalised > 0, penalised / penalty, penalised * penalty)
    z[columns] = penalised - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    return z


def _columns(tokens: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in `tokens`, ascending, the wanted ones are: (columns of those that occur, mask bool of `wanted`)."""
    columns = np.minimum(np.searchsorted(tokens, wanted), len(tokens) - 1)
    known = tokens[columns] == wanted
    return columns[known], known


def _filter(z: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The indices of z [n] that top_k, top_p and min_p leave, ascending; thresholds are on values, as in sampler.py."""
    keep = np.ones(len(z), dtype=np.bool_)
    if 0 < sampling.top_k < len(z):
        keep &= z >= np.partition(z, -sampling.top_k)[-sampling.top_k]
    if sampling.top_p < 1:
        order = np.argsort(-z, kind="stable")
        p = softmax(np.where(keep, z, -np.inf))[order]
        reached = p.cumsum() - p < sampling.top_p  # the mass before the token; the first token is always kept
        keep &= z >= z[order[reached]].min()
    if sampling.min_p > 0:
        keep &= z >= z.max() + np.float32(np.log(sampling.min_p))
    return np.flatnonzero(keep)
