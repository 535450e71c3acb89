"""The check of attention: passes as it is, and fails with masks that show a row what it must not see, or too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from edgedraft.runtime.blocks import tree_paths
from loadtest.gpu_check.exactness.attention import check_attention
from loadtest.gpu_check.report import Section

CPU = torch.device("cpu")
Masks = tuple[np.ndarray, np.ndarray]


def shows_siblings(parents: Sequence[int]) -> Masks:
    depths, paths = tree_paths(parents)
    return depths, np.tril(np.ones_like(paths))


def hides_parents(parents: Sequence[int]) -> Masks:
    depths, paths = tree_paths(parents)
    for row, parent in enumerate(parents):
        if parent > 0:
            paths[row, parent] = False
    return depths, paths


def test_attention_is_what_its_definition_says(section: Section) -> None:
    check_attention(section, CPU, tiny=True)
    assert len(section.checks) > 10
    assert [check.name for check in section.checks if not check.passed] == []


@pytest.mark.parametrize("paths", [shows_siblings, hides_parents])
def test_a_wrong_mask_fails_every_check_of_trees(section: Section, paths: Callable[[Sequence[int]], Masks]) -> None:
    check_attention(section, CPU, tiny=True, paths=paths)
    assert {check.name for check in section.checks if not check.passed} == {
        check.name for check in section.checks if "tree" in check.name
    }


def test_a_wrong_depth_fails_where_a_window_depends_on_it(section: Section) -> None:
    def flat(parents: Sequence[int]) -> Masks:
        depths, paths = tree_paths(parents)
        return np.zeros_like(depths), paths

    check_attention(section, CPU, tiny=True, paths=flat)
    failed = {check.name for check in section.checks if not check.passed}
    assert failed
    assert all("window" in name for name in failed)
