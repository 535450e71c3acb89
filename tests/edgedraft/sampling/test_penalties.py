"""Penalties and bias against transformers, OpenAI's formula by hand, and a path appended for a while."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from edgedraft.sampling.penalties import apply_bias, apply_penalties, divide
from edgedraft.sampling.token_counts import TokenCounts
from edgedraft.wire import Sampling

ALL = Sampling(
    temperature=0.7, frequency_penalty=0.4, presence_penalty=0.3, repetition_penalty=1.2, logit_bias={5: 2.0, 7: -3.0}
)


@pytest.mark.parametrize("by", [0.1, 0.3, 0.7, 1.0, 1.3, 1e-3])
def test_a_division_rounds_as_ieee_says(by: float) -> None:
    z = torch.randn(10_000, generator=torch.Generator().manual_seed(1)) * 10
    exact = z.numpy() / np.float32(by)
    assert np.array_equal(divide(z, by).numpy().view(np.int32), exact.view(np.int32))


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn((1, 80), generator=torch.Generator().manual_seed(9)) * 4
    sampling, before = Sampling(temperature=0, repetition_penalty=1.7), logits.clone()
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[4, 5, 5, 6, 60, 4]]), logits.clone())  # type: ignore[arg-type]
    assert torch.equal(apply_penalties(logits, sampling, TokenCounts(sampling, [4, 5, 5], [6, 60, 4])), expected)
    assert torch.equal(logits, before)


def test_a_path_ahead_leaves_no_trace_in_the_counts() -> None:
    logits = torch.randn((1, 60), generator=torch.Generator().manual_seed(10))
    counts = TokenCounts(ALL, [1, 2], [3, 3])
    with counts.with_path([3, 9, 9, 1]) as longer:
        ahead = apply_penalties(logits, ALL, longer)
    assert torch.equal(ahead, apply_penalties(logits, ALL, TokenCounts(ALL, [1, 2], [3, 3, 3, 9, 9, 1])))
    assert torch.equal(
        apply_penalties(logits, ALL, counts),
        apply_penalties(logits, ALL, TokenCounts(ALL, [1, 2], [3, 3])),
    )


def test_frequency_counts_each_occurrence_and_presence_only_the_first() -> None:
    """OpenAI API reference: logits[j] - count[j] * frequency_penalty - (count[j] > 0) * presence_penalty."""
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25)
    penalised = apply_penalties(torch.zeros((2, 5)), sampling, TokenCounts(sampling, [4], [1, 2, 2, 2]))
    assert penalised.tolist() == [[0.0, -0.75, -1.75, 0.0, 0.0]] * 2


def test_the_prompt_counts_for_the_repetition_penalty_alone() -> None:
    sampling = Sampling(frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=2.0)
    logits = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    penalised = apply_penalties(logits, sampling, TokenCounts(sampling, [0, 1], [2]))
    assert penalised.tolist() == [[1.5, -6.0, 1.5 - 0.75, -3.0]]


def test_the_bias_is_added_before_the_repetition_penalty() -> None:
    sampling = Sampling(repetition_penalty=2.0, logit_bias={0: 5.0})
    penalised = apply_penalties(torch.tensor([[-1.0, -1.0]]), sampling, TokenCounts(sampling, [0, 1]))
    assert penalised.tolist() == [[2.0, -2.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_given_are_not_changed(dtype: torch.dtype) -> None:
    logits = torch.randn((2, 20), generator=torch.Generator().manual_seed(1)).to(dtype)
    before = logits.clone()
    for penalised in (apply_bias(logits, ALL), apply_penalties(logits, ALL, TokenCounts(ALL, [1], [2, 2]))):
        assert penalised.dtype == torch.float32
        assert not torch.equal(penalised, before.float())
    assert torch.equal(logits, before)
