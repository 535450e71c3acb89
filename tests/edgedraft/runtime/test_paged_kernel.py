"""The kernels of paged attention: equal to gathered attention in Triton's interpreter, and compiled for real GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedraft.runtime.attention_check import (
    LARGEST_DIFFERENCE,
    CheckedSequence,
    HeadShape,
    compare_attention,
    compare_layers,
)
from edgedraft.runtime.packed_model import PackedModel, UnsupportedModel
from edgedraft.runtime.paged_attention import SPLIT_KEYS
from tests.support.tiny_llama import tiny_llama
from tests.support.triton_interpreter import runs_interpreted

pytestmark = runs_interpreted

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LARGEST = LARGEST_DIFFERENCE | {torch.float32: 5e-6}  # other devices may compute with less precision than NumPy


@st.composite
def sequence(draw: st.DrawFn) -> CheckedSequence:
    """A chain or any tree, with kept rows or without, behind 0 to 5 blocks of text, or behind more than one split."""
    num_cached = draw(st.one_of(st.integers(0, 80), st.just(SPLIT_KEYS + 7)))
    rows = draw(st.integers(1, 24))
    if draw(st.booleans()):
        parents = list(range(-1, rows - 1))
    else:
        parents = [draw(st.integers(-1, row - 1)) for row in range(rows)]
    return CheckedSequence(num_cached, parents, kept=draw(st.integers(0, rows - 1)))


@given(
    sequences=st.lists(sequence(), min_size=1, max_size=4),
    heads=st.builds(HeadShape, st.integers(1, 2), st.sampled_from([1, 2, 3, 4, 8]), *[st.sampled_from([64, 128])] * 2),
    dtype=st.sampled_from(DTYPES),
    window=st.one_of(st.none(), st.integers(1, 600)),
    seed=st.integers(0, 1 << 30),
)
@settings(deadline=None, max_examples=60)
def test_any_batch_attends_as_gathered(
    sequences: list[CheckedSequence], heads: HeadShape, dtype: torch.dtype, window: int | None, seed: int
) -> None:
    assert compare_attention(heads, sequences, dtype, CPU, window, seed) <= LARGEST[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "heads",
    [
        HeadShape(2, 4, 64, 64),
        HeadShape(2, 7, 128, 128),
        HeadShape(3, 1, 80, 80),
        HeadShape(1, 5, 24, 40),
        HeadShape(1, 71, 64, 64),
        HeadShape(1, 4, 256, 256),
    ],
    ids=lambda heads: f"{heads.kv_heads}x{heads.group}-{heads.dim}-{heads.value_dim}",
)
def test_layers_of_many_shapes_attend_as_gathered(heads: HeadShape, dtype: torch.dtype) -> None:
    """In tiles of every size; dimensions that are no power of two are padded within a tile."""
    assert compare_layers([(heads, None)], dtype, CPU) <= LARGEST[dtype]


@pytest.mark.parametrize("window", [None, 5])
def test_trees_of_several_tiles_attend_to_their_own_paths(window: int | None) -> None:
    """A float32 tile has four rows of these heads."""
    sequences = [
        CheckedSequence(20 + rows, [(5 * i) % (i + 1) - 1 for i in range(rows)], kept=rows % 4) for rows in (23, 9, 14)
    ]
    assert compare_attention(HeadShape(2, 4, 16, 16), sequences, torch.float32, CPU, window) <= LARGEST[torch.float32]


@pytest.mark.parametrize("window", [None, 1, 3, SPLIT_KEYS, 2 * SPLIT_KEYS + 5])
@pytest.mark.parametrize("num_cached", [3 * SPLIT_KEYS - 1, 3 * SPLIT_KEYS, 3 * SPLIT_KEYS + 1])
def test_splits_before_the_window_add_nothing(num_cached: int, window: int | None) -> None:
    sequences = [CheckedSequence(num_cached, [-1]), CheckedSequence(num_cached, [-1, 0, 0, 2], kept=1)]
    assert compare_attention(HeadShape(1, 2, 16, 16), sequences, torch.float32, CPU, window) <= LARGEST[torch.float32]


def test_a_model_whose_kernel_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedraft.runtime import paged_kernel

    monkeypatch.setattr(paged_kernel, "LOG2_E", paged_kernel.LOG2_E * 1.001)
    with pytest.raises(UnsupportedModel, match="paged attention differs from gathered by"):
        PackedModel(tiny_llama(), 256, attention="paged")


COMPILED = Path(__file__).with_name("compile_paged_kernel.py")


@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_it_compiles_for_gpus_within_their_registers_and_shared_memory(capability: int, dtype: str) -> None:
    """In a process of its own, where Triton compiles in place of interpreting. It needs no GPU for that."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, str(COMPILED), str(capability), dtype]
    made = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    kernels = json.loads(made.stdout)
    assert kernels
    for kernel in kernels:
        assert kernel["shared"] <= 99 * 1024, kernel
        assert kernel["spilled"] <= 32, kernel  # of each thread: a few addresses, no tile
        assert kernel["tensor_cores"] == (dtype != "fp32"), kernel
