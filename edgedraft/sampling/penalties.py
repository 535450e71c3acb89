"""What repetition, frequency and presence penalties and logit_bias do to logits, before anything else acts on them.

Bias first, then the repetition penalty over prompt and output (CTRL, arXiv 1909.05858: positive logits are divided,
negative ones multiplied), then frequency and presence over the output (OpenAI's API reference, Chat Completions). All
but the bias depend on the path, so each place of a draft tree has them of its own text. This file needs torch.
"""

from __future__ import annotations

import torch

from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling


def apply_bias(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab] with logit_bias added."""
    z = logits.to(torch.float32, copy=True)
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=z.device)
        z[:, tokens] += torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=z.device)
    return z


def apply_penalties(logits: torch.Tensor, sampling: Sampling, history: TokenCounts | None) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab], all at places behind the text of `history`, with bias and penalties."""
    z = apply_bias(logits, sampling)
    if history is None:
        return z
    tokens, counts = (torch.from_numpy(column).to(z.device) for column in history.columns())
    seen = z[:, tokens]
    if sampling.repetition_penalty != 1:
        seen = torch.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
    seen = seen - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    z[:, tokens] = seen
    return z
