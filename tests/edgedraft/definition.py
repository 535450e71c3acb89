"""Sampling by its definition, row by row and by ranks: slow, and sharing only the noise with the sampler."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedraft.sampling.noise import gumbel_rows
from edgedraft.wire import Sampling


def reference_sample(
    logits: np.ndarray,
    sampling: Sampling,
    index: int,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    allowed: np.ndarray | None = None,
) -> int:
    """The token at output index `index`, from float32 logits [vocab] that follow prompt and output."""
    z = logits.astype(np.float32)
    for token, bias in sampling.logit_bias.items():
        z[token] += np.float32(bias)
    for token in {*prompt, *output}:
        by = np.float32(sampling.repetition_penalty)
        z[token] = z[token] / by if z[token] > 0 else z[token] * by
    for token in set(output):
        z[token] -= np.float32(sampling.frequency_penalty) * np.float32(list(output).count(token))
        z[token] -= np.float32(sampling.presence_penalty)
    if allowed is not None:
        z[~allowed] = -np.inf
    if sampling.temperature == 0:
        return int(z.argmax())
    z = z.astype(np.float64) / sampling.temperature
    order = [token for token in np.argsort(-z, kind="stable") if z[token] > -np.inf]
    kept = order[: sampling.top_k] if sampling.top_k else order
    p = np.exp(z[kept] - z[kept].max())
    before = np.concatenate([[0], np.cumsum(p / p.sum())[:-1]])
    kept = [token for token, mass in zip(kept, before, strict=True) if mass < sampling.top_p]
    kept = [token for token in kept if z[token] >= z[kept[0]] + np.log(max(sampling.min_p, 1e-300))]
    g = gumbel_rows([sampling.seed], [index], len(logits))[0]
    return int(max(kept, key=lambda token: z[token] + g[token]))
