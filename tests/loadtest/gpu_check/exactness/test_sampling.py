"""The check of sampling: passes as it is, and fails for a device that takes one token for another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec.structs import replace

from edgedraft.sampling.sampler import sample_rows
from edgedraft.wire import Sampling
from loadtest.gpu_check.exactness.sampling import TINY, check_sampling
from loadtest.gpu_check.report import Section

CPU = torch.device("cpu")


def test_noise_and_tokens_are_the_same_twice(section: Section) -> None:
    check_sampling(section, CPU, TINY)
    assert [check.name for check in section.checks if not check.passed] == []


def test_a_device_whose_ties_end_otherwise_fails(section: Section) -> None:
    def last_of_ties(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int]) -> list[int]:
        if sampling.temperature:
            return sample_rows(logits, sampling, indices)
        return [int((row == row.max()).nonzero()[-1]) for row in logits]

    check_sampling(section, CPU, TINY, last_of_ties)
    assert [check.name for check in section.checks if not check.passed] == ["tokens, greedy, ties"]


def test_top_p_excuses_no_other_differences_than_those_at_its_bound(section: Section) -> None:
    def with_other_noise(logits: torch.Tensor, sampling: Sampling, indices: Sequence[int]) -> list[int]:
        return sample_rows(logits, replace(sampling, seed=12) if sampling.top_p < 1 else sampling, indices)

    check_sampling(section, CPU, TINY, with_other_noise)
    assert [check.name for check in section.checks if not check.passed] == ["tokens, top_p"]
