"""Invariant 1's choice: filters against a plain reference, determinism, the right distribution, and coupling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from edgedraft.noise import gumbel_rows
from edgedraft.sampling import NUCLEUS, choose, guess, processed
from edgedraft.wire import Sampling


def reference_choice(logits: np.ndarray, sampling: Sampling, index: int) -> int:
    """The definition, in float64 and by ranks."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    z = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-z, kind="stable")
    kept = list(order[: sampling.top_k] if sampling.top_k else order)
    p = np.exp(z[kept] - z[kept].max())
    before = np.concatenate([[0], np.cumsum(p / p.sum())[:-1]])
    kept = [token for token, mass in zip(kept, before, strict=True) if mass < sampling.top_p]
    kept = [token for token in kept if z[token] >= z[kept[0]] + np.log(max(sampling.min_p, 1e-300))]
    g = gumbel_rows([sampling.seed], [index], len(logits))[0]
    return max(kept, key=lambda token: z[token] + g[token])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.7, top_k=7, seed=2),
        Sampling(temperature=1.3, top_p=0.8, seed=3),
        Sampling(temperature=0.9, min_p=0.1, seed=4),
        Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02, seed=2**63 - 1),
    ],
    ids=str,
)
def test_choices_are_those_of_the_definition(sampling: Sampling) -> None:
    logits = torch.randn((50, 300), generator=torch.Generator().manual_seed(0)) * 3
    expected = [reference_choice(row.numpy(), sampling, index) for index, row in enumerate(logits)]
    assert choose(logits, sampling, range(50)) == expected


def test_a_flat_distribution_is_cut_where_the_definition_cuts_it() -> None:
    logits = torch.randn((8, 3000), generator=torch.Generator().manual_seed(2)) / 2
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=6)
    assert (processed(logits, sampling) > -torch.inf).sum(dim=-1).min() > NUCLEUS
    expected = [reference_choice(row.numpy(), sampling, index) for index, row in enumerate(logits)]
    assert choose(logits, sampling, range(8)) == expected


def test_a_choice_depends_on_its_own_row_and_index_alone() -> None:
    logits = torch.randn((9, 200), generator=torch.Generator().manual_seed(1))
    sampling = Sampling(temperature=1.0, seed=5)
    together = choose(logits, sampling, [4, 4, 7, 0, 1, 7, 2, 9, 3])
    alone = [choose(logits[i : i + 1], sampling, [index])[0] for i, index in enumerate([4, 4, 7, 0, 1, 7, 2, 9, 3])]
    assert together == alone


def test_ties_at_a_threshold_are_kept_together() -> None:
    z = processed(torch.tensor([[2.0, 2.0, 2.0, 1.0]]), Sampling(temperature=1.0, top_k=2))
    assert torch.isfinite(z).tolist() == [[True, True, True, False]]


def test_choices_follow_the_softmax() -> None:
    logits = torch.tensor([0.5, -0.3, 1.2, 0.0, -2.0])
    sampling, draws = Sampling(temperature=0.8, seed=3), 20000
    chosen = choose(logits.expand(draws, -1), sampling, range(draws))
    expected = (logits / 0.8).softmax(-1).double().numpy()
    assert chisquare(np.bincount(chosen, minlength=5), expected / expected.sum() * draws).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_with_the_targets_logits_guesses_every_choice(temperature: float) -> None:
    logits = torch.randn((200, 400), generator=torch.Generator().manual_seed(2)) * 2
    sampling = Sampling(temperature=temperature, top_p=0.95, seed=9)
    tokens, probabilities = guess(logits, sampling, range(200), width=3)
    assert tokens[:, 0].tolist() == choose(logits, sampling, range(200))
    assert (probabilities[:, 0] >= probabilities[:, 1]).all()
    assert (probabilities.sum(-1) <= 1.0001).all()


def test_coupling_makes_a_similar_draft_agree_more_often() -> None:
    generator = torch.Generator().manual_seed(4)
    target = torch.randn((600, 50), generator=generator)
    draft = target + 0.5 * torch.randn((600, 50), generator=generator)
    sampling = Sampling(temperature=1.0, seed=6)
    chosen = torch.tensor(choose(target, sampling, range(600)))
    agree = {
        coupled: (guess(draft, sampling, range(600), 1, coupled=coupled)[0][:, 0] == chosen).float().mean().item()
        for coupled in (True, False)
    }
    assert agree[True] > 2 * agree[False]


def test_a_cut_head_maps_its_columns_to_the_targets_tokens() -> None:
    logits = torch.randn((20, 100), generator=torch.Generator().manual_seed(5)) * 8
    ids = torch.arange(0, 100, 2)
    sampling = Sampling(temperature=0.5, seed=1)
    tokens, _ = guess(logits[:, ids], sampling, range(20), 1, ids=ids, vocab_size=100)
    masked = logits.masked_fill(torch.arange(100) % 2 == 1, -torch.inf)
    assert tokens[:, 0].tolist() == choose(masked, sampling, range(20))
