"""Sampling (invariant 1): equal to a plain reference, deterministic, correctly distributed, and coupled with drafts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from edgedraft.sampling.sampler import TOP_P_CANDIDATES, apply_filters, propose_tokens, sample_next, sample_rows
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling
from tests.edgedraft.definition import reference_sample


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
def test_sampled_tokens_equal_the_reference(sampling: Sampling) -> None:
    logits = torch.randn((50, 300), generator=torch.Generator().manual_seed(0)) * 3
    expected = [reference_sample(row.numpy(), sampling, index) for index, row in enumerate(logits)]
    assert sample_rows(logits, sampling, range(50)) == expected


def test_top_p_equals_the_reference_on_a_flat_distribution() -> None:
    logits = torch.randn((8, 3000), generator=torch.Generator().manual_seed(2)) / 2
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=6)
    assert (apply_filters(logits, sampling) > -torch.inf).sum(dim=-1).min() > TOP_P_CANDIDATES
    expected = [reference_sample(row.numpy(), sampling, index) for index, row in enumerate(logits)]
    assert sample_rows(logits, sampling, range(8)) == expected


def test_a_token_depends_only_on_its_row_and_index() -> None:
    logits = torch.randn((9, 200), generator=torch.Generator().manual_seed(1))
    sampling = Sampling(temperature=1.0, seed=5)
    together = sample_rows(logits, sampling, [4, 4, 7, 0, 1, 7, 2, 9, 3])
    alone = [
        sample_rows(logits[i : i + 1], sampling, [index])[0] for i, index in enumerate([4, 4, 7, 0, 1, 7, 2, 9, 3])
    ]
    assert together == alone


def test_ties_at_a_threshold_are_kept_together() -> None:
    z = apply_filters(torch.tensor([[2.0, 2.0, 2.0, 1.0]]), Sampling(temperature=1.0, top_k=2))
    assert torch.isfinite(z).tolist() == [[True, True, True, False]]


def test_sampled_tokens_follow_the_softmax() -> None:
    logits = torch.tensor([0.5, -0.3, 1.2, 0.0, -2.0])
    sampling, draws = Sampling(temperature=0.8, seed=3), 20000
    sampled = sample_rows(logits.expand(draws, -1), sampling, range(draws))
    expected = (logits / 0.8).softmax(-1).double().numpy()
    assert chisquare(np.bincount(sampled, minlength=5), expected / expected.sum() * draws).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_draft_with_the_targets_logits_proposes_every_sampled_token(temperature: float) -> None:
    logits = torch.randn((200, 400), generator=torch.Generator().manual_seed(2)) * 2
    sampling = Sampling(temperature=temperature, top_p=0.95, seed=9)
    tokens, probabilities = propose_tokens(logits, sampling, range(200), width=3)
    assert tokens[:, 0].tolist() == sample_rows(logits, sampling, range(200))
    assert (probabilities[:, 0] >= probabilities[:, 1]).all()
    assert (probabilities.sum(-1) <= 1.0001).all()


def test_coupling_makes_a_similar_draft_agree_more_often() -> None:
    generator = torch.Generator().manual_seed(4)
    target = torch.randn((600, 50), generator=generator)
    draft = target + 0.5 * torch.randn((600, 50), generator=generator)
    sampling = Sampling(temperature=1.0, seed=6)
    sampled = torch.tensor(sample_rows(target, sampling, range(600)))
    agree = {
        coupled: (propose_tokens(draft, sampling, range(600), 1, coupled=coupled)[0][:, 0] == sampled)
        .float()
        .mean()
        .item()
        for coupled in (True, False)
    }
    assert agree[True] > 2 * agree[False]


def test_a_reduced_head_maps_its_columns_to_the_targets_tokens() -> None:
    logits = torch.randn((20, 100), generator=torch.Generator().manual_seed(5)) * 8
    ids = torch.arange(0, 100, 2)
    sampling = Sampling(temperature=0.5, seed=1)
    tokens, _ = propose_tokens(logits[:, ids], sampling, range(20), 1, column_ids=ids, vocab_size=100)
    masked = logits.masked_fill(torch.arange(100) % 2 == 1, -torch.inf)
    assert tokens[:, 0].tolist() == sample_rows(masked, sampling, range(20))


PENALISED = {
    "frequency": Sampling(temperature=0, frequency_penalty=0.7),
    "presence": Sampling(temperature=0.9, presence_penalty=-1.5, seed=1),
    "repetition": Sampling(temperature=0, repetition_penalty=1.3),
    "repetition below 1": Sampling(temperature=1.0, repetition_penalty=0.6, top_k=30, seed=2),
    "bias": Sampling(temperature=0.8, logit_bias={3: 4.5, 11: -100.0, 40: 100.0}, top_p=0.9, seed=3),
    "greedy bias": Sampling(temperature=0, logit_bias={3: 4.5, 11: -100.0}),
    "all": Sampling(
        temperature=0.7, frequency_penalty=0.4, presence_penalty=0.3, repetition_penalty=1.2,
        logit_bias={5: 2.0, 7: -3.0}, top_k=40, top_p=0.95, min_p=0.02, seed=4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PENALISED)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.08], ids=["free", "many", "few"])
def test_penalised_tokens_equal_the_reference(name: str, share: float) -> None:
    sampling, dice = PENALISED[name], np.random.default_rng(6)
    logits = torch.randn((40, 60), generator=torch.Generator().manual_seed(7)) * 3
    prompt, output = dice.integers(0, 60, 25).tolist(), dice.integers(0, 60, 40).tolist()
    mask = dice.random((40, 60)) < share
    mask[:, 17] = True  # at least one
    counts = TokenCounts(sampling, prompt)
    for index in range(40):
        row, allowed = logits[index : index + 1], torch.from_numpy(mask[index])
        sampled = sample_next(row, sampling, index, counts, allowed if share < 1 else None)
        assert sampled == reference_sample(row[0].numpy(), sampling, index, prompt, output[:index], mask[index])
        counts.extend(output[index : index + 1])


def test_bias_needs_no_token_counts() -> None:
    logits = torch.randn((30, 60), generator=torch.Generator().manual_seed(8))
    for name in ("bias", "greedy bias"):
        expected = [reference_sample(row.numpy(), PENALISED[name], index) for index, row in enumerate(logits)]
        assert sample_rows(logits, PENALISED[name], range(30)) == expected


@pytest.mark.parametrize("name", PENALISED)
def test_a_draft_with_the_targets_logits_proposes_penalised_tokens(name: str) -> None:
    sampling = PENALISED[name]
    logits = torch.randn((30, 60), generator=torch.Generator().manual_seed(11)) * 2
    counts = TokenCounts(sampling, [1, 2, 3], [3, 4, 4, 50])
    ids = torch.arange(0, 60, 2)
    odd = torch.arange(60) % 2 == 1
    for index in range(30):
        row = logits[index : index + 1]
        full, _ = propose_tokens(row, sampling, [index], 1, token_counts=counts)
        assert full.tolist() == [[sample_next(row, sampling, index, counts)]]
        cut, _ = propose_tokens(row[:, ids], sampling, [index], 1, column_ids=ids, vocab_size=60, token_counts=counts)
        assert cut.tolist() == [[sample_next(row.masked_fill(odd, -torch.inf), sampling, index, counts)]]
