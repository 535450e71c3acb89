"""Proposals in NumPy are those that torch makes of the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_agent.drafters.proposals.from_logits import MAX_CANDIDATES, propose_from_logits
from edgedraft.sampling.sampler import propose_tokens
from edgedraft.sampling.token_counts import TokenCounts, has_penalties
from edgedraft.wire import Sampling

VOCAB = 3000
IDS = np.arange(0, VOCAB, 2)  # a cut head


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, logit_bias={4: 9.0, 5: 9.0, 8: -50.0}),
        Sampling(temperature=0.0, repetition_penalty=1.4, frequency_penalty=0.6, presence_penalty=0.3),
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.02, seed=2),
        Sampling(temperature=1.3, top_p=0.5, seed=-3),
        Sampling(temperature=0.9, seed=4, repetition_penalty=0.8, presence_penalty=-1.0, logit_bias={6: 3.0}),
    ],
)
def test_they_are_those_of_torch(sampling: Sampling) -> None:
    for index in range(20):
        logits = torch.randn(1, len(IDS), generator=torch.Generator().manual_seed(index)) * 3
        favourites = IDS[logits[0].topk(8).indices.numpy()].tolist()
        text = [*favourites, favourites[0], 1, 3]
        counts = TokenCounts(sampling, text[:4], text[4:]) if has_penalties(sampling) else None
        tokens, probabilities = propose_tokens(
            logits, sampling, [index], MAX_CANDIDATES, torch.from_numpy(IDS), VOCAB, token_counts=counts
        )
        found = propose_from_logits(logits[0].numpy(), IDS, sampling, index, counts)
        width = len(found.tokens)
        assert width
        assert found.tokens == tuple(tokens[0, :width].tolist())
        assert found.probabilities == pytest.approx(probabilities[0, :width].tolist(), abs=1e-3)
        assert not width < MAX_CANDIDATES or probabilities[0, width] < 0.031
