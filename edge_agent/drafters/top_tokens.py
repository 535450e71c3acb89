"""A proposal from a draft model's most likely next tokens, where its full logits are not known.

llama.cpp and model servers return the top tokens of a position with their log-probabilities. The target's sampling
noise is added to those here, as edgedraft/sampling/sampler.py does with full logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.drafters.interface import NO_PROPOSAL, Proposal
from edgedraft.sampling.noise import gumbel_at
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.wire import Sampling

MAX_CANDIDATES = 6  # per position
MIN_SIBLING_PROBABILITY = 0.03  # all candidates but the first are dropped below it
GREEDY_TOP_TOKENS, SAMPLED_TOP_TOKENS = 8, 64  # most likely tokens to read


def is_plain_greedy(sampling: Sampling) -> bool:
    """Whether the target's next token is the one with the highest logit, whatever came before."""
    return sampling.temperature == 0 and not has_penalties(sampling) and not sampling.logit_bias


def num_top_tokens(sampling: Sampling) -> int:
    """How many of the most likely tokens a proposal needs."""
    return GREEDY_TOP_TOKENS if is_plain_greedy(sampling) else SAMPLED_TOP_TOKENS


def propose_from_top_tokens(
    top: Sequence[tuple[int, float]], sampling: Sampling, index: int, token_counts: TokenCounts | None = None
) -> Proposal:
    """Propose tokens from a draft model's most likely tokens and their log-probabilities, best first.

    Does what edgedraft.sampling.sampler.propose does with full logits; tokens outside `top` count as impossible. The
    repetition penalty is left out: it needs raw logits, and only log-probabilities are known here.
    """
    if not top:
        return NO_PROPOSAL
    tokens = np.array([token for token, _ in top], dtype=np.int64)
    logps = np.array([logp for _, logp in top])
    probabilities = np.exp(logps)
    if sampling.logit_bias or token_counts is not None:
        logps = logps + [sampling.logit_bias.get(token, 0.0) for token, _ in top]
        counts = np.zeros(len(top)) if token_counts is None else token_counts.counts(token for token, _ in top)
        logps = logps - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
        order = np.argsort(-logps, kind="stable")
        tokens, logps = tokens[order], logps[order]
        probabilities = _softmax(logps)
    if sampling.temperature > 0:
        z = _apply_filters(logps / sampling.temperature, sampling)
        probabilities = _softmax((z + gumbel_at(sampling.seed, index, tokens)) * sampling.temperature)
    order = np.argsort(-probabilities, kind="stable")[:MAX_CANDIDATES]
    kept = [int(i) for n, i in enumerate(order) if n == 0 or probabilities[i] >= MIN_SIBLING_PROBABILITY]
    return Proposal(
        tuple(int(tokens[i]) for i in kept),
        (-1,) * len(kept),
        tuple(min(1.0, float(probabilities[i])) for i in kept),
    )


def _apply_filters(z: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Scores in descending order, with -inf where top_k, top_p or min_p exclude a token."""
    keep = np.ones(len(z), dtype=bool)
    if sampling.top_k:
        keep[sampling.top_k :] = False
    p = _softmax(np.where(keep, z, -np.inf))
    keep &= (p.cumsum() - p) < sampling.top_p
    if sampling.min_p > 0:
        keep &= z >= z[0] + np.log(sampling.min_p)
    return np.where(keep, z, -np.inf)


def _softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max())
    return p / p.sum()
