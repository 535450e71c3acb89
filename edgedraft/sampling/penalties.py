"""logit_bias and the repetition, frequency and presence penalties, the first things applied to the logits.

Bias comes first, then the repetition penalty over prompt and output (CTRL, arXiv 1909.05858: positive logits are
divided, negative ones multiplied), then the frequency and presence penalties over the output (OpenAI API reference,
Chat Completions). All but the bias depend on the path, so each node of a draft tree is penalised by its own text.
Needs torch.
"""

from __future__ import annotations

import torch

from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling


def divide(z: torch.Tensor, by: float) -> torch.Tensor:
    """z / by for float32, with the same bits on every device.

    CUDA multiplies by the reciprocal of a divisor that is a number, which rounds differently; a tensor it divides by.
    """
    return z / torch.full((), by, dtype=z.dtype, device=z.device)


def apply_bias(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab] with logit_bias added."""
    z = logits.to(torch.float32, copy=True)
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=z.device)
        z[:, tokens] += torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32, device=z.device)
    return z


def apply_penalties(logits: torch.Tensor, sampling: Sampling, token_counts: TokenCounts | None) -> torch.Tensor:
    """A float32 copy of logits [rows, vocab] with bias and penalties.

    All rows follow the text that `token_counts` counts; None stands for a text without tokens.
    """
    z = apply_bias(logits, sampling)
    if token_counts is None:
        return z
    tokens, counts = (torch.from_numpy(array).to(z.device) for array in token_counts.to_arrays())
    penalised = z[:, tokens]
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        penalised = torch.where(penalised > 0, divide(penalised, penalty), penalised * penalty)
    penalised = penalised - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
    z[:, tokens] = penalised
    return z
