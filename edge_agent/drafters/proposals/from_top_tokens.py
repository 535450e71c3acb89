"""A proposal from a draft model's most likely next tokens, where its full logits are not known.

llama.cpp and model servers return the top tokens of a position with their log-probabilities. The target's sampling
noise is added to those, as to full logits (from_logits.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_agent.drafters.interface import NO_PROPOSAL, Proposal
from edge_agent.drafters.proposals.from_logits import propose_best, propose_from_logits
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.wire import Sampling

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

    Tokens outside `top` count as impossible. The repetition penalty is left out: it needs raw logits, and only
    log-probabilities are known here.
    """
    if not top:
        return NO_PROPOSAL
    top = sorted(top)
    tokens = np.array([token for token, _ in top], dtype=np.int64)
    logps = np.array([logp for _, logp in top], dtype=np.float32)
    if sampling.temperature == 0 and not sampling.logit_bias and token_counts is None:
        return propose_best(np.exp(logps), tokens)
    known = msgspec.structs.replace(sampling, repetition_penalty=1.0)
    return propose_from_logits(logps, tokens, known, index, token_counts)
