"""Compares the paged attention kernel with gathered attention, on random numbers of given shapes and on any device.

A verifier that is to use the kernel does this when it starts, on its model's shapes and its own device.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from edgedraft.runtime.attention_groups import AttentionGroup, LayerInputs, SequenceSpan, make_attention_group
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager
from edgedraft.runtime.blocks import num_blocks, tree_paths
from edgedraft.runtime.paged_attention import SPLIT_KEYS, make_paged_group

# Of outputs with a standard deviation of at most 1. Rounding an output to bfloat16 alone changes it by up to 0.016.
LARGEST_DIFFERENCE = {torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.03}


@dataclass(frozen=True)
class HeadShape:
    """Key heads, query heads that share one (grouped-query attention), and numbers per key and per value."""

    kv_heads: int
    group: int
    dim: int
    value_dim: int


Layer = tuple[HeadShape, int | None]  # and the sliding window


@dataclass(frozen=True)
class CheckedSequence:
    """A sequence of `num_cached` tokens and the rows behind them, of which the first `kept` are of earlier forwards.

    parents[i] is the row that row i follows, -1 for the last token.
    """

    num_cached: int
    parents: Sequence[int]
    kept: int = 0


def compare_attention(
    heads: HeadShape,
    sequences: Sequence[CheckedSequence],
    dtype: torch.dtype,
    device: torch.device,
    window: int | None = None,
    seed: int = 0,
) -> float:
    """The largest difference of any output of the kernel on `device`, in `dtype`, from gathered attention.

    The latter is computed in float64 on the CPU from the same numbers. All sequences are in one forward; their blocks
    are in random order. Infinite if an output is not a number. Raises ImportError where Triton is missing.
    """
    spans, count = _make_spans(sequences, random.Random(seed))
    noise = torch.Generator().manual_seed(seed)
    rows = spans[-1].stop

    def random_numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise).to(dtype)

    query = random_numbers(heads.kv_heads, heads.group, rows, heads.dim)
    keys = random_numbers(count, BLOCK_SIZE, heads.kv_heads, heads.dim)
    values = random_numbers(count, BLOCK_SIZE, heads.kv_heads, heads.value_dim)

    def attend(groups: Sequence[AttentionGroup], place: torch.device, number: torch.dtype) -> torch.Tensor:
        out = torch.full((rows, heads.kv_heads * heads.group, heads.value_dim), torch.nan, dtype=number, device=place)
        layer = LayerInputs(query.to(place, number), keys.to(place, number), values.to(place, number), out)
        for group in groups:
            group.attend(layer, window, None)
        return out.cpu().double()

    cpu, exact = torch.device("cpu"), torch.float64
    here, there = (BlockManager(count * BLOCK_SIZE, *kind) for kind in ((exact, cpu), (dtype, device)))
    gathered = attend([make_attention_group(here, [span]) for span in spans], cpu, exact)
    paged = attend([make_paged_group(there, spans)], device, dtype)
    difference = (paged - gathered).abs()
    return float("inf") if difference.isnan().any() else difference.max().item()


def compare_layers(layers: Iterable[Layer], dtype: torch.dtype, device: torch.device) -> float:
    """The largest difference in `layers`, over forwards with tiles of every size. Compiles the kernels for all of them.

    Each forward has a short text, a tree behind kept rows, and a text of more than one split; one also has a prompt of
    two tiles.
    """
    from edgedraft.runtime.paged_kernel import tile_sizes

    largest = 0.0
    for heads, window in layers:
        sizes = tile_sizes(heads.group, dtype)
        for size in sizes:
            rows = size // heads.group
            tree = CheckedSequence(18, [-1, 0, 0, *(i // 2 for i in range(rows))], kept=3)
            forward = [CheckedSequence(0, [-1]), tree, CheckedSequence(SPLIT_KEYS + 90, [-1])]
            if size == sizes[-1]:
                forward.append(CheckedSequence(5, range(-1, rows + 4)))
            largest = max(largest, compare_attention(heads, forward, dtype, device, window))
    return largest


class LayerShapes:
    """Makes paged groups that note, in `seen`, the shapes and windows of the layers in which they attend."""

    def __init__(self) -> None:
        self.seen: set[Layer] = set()

    def make_group(self, block_manager: BlockManager, spans: Sequence[SequenceSpan]) -> AttentionGroup:
        return _NotingGroup(make_paged_group(block_manager, spans), self.seen)


@dataclass(frozen=True)
class _NotingGroup:
    group: AttentionGroup
    seen: set[Layer]

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        kv_heads, group, _, dim = layer.query.shape
        self.seen.add((HeadShape(kv_heads, group, dim, layer.values.shape[-1]), window))
        self.group.attend(layer, window, scale)


def _make_spans(sequences: Sequence[CheckedSequence], dice: random.Random) -> tuple[list[SequenceSpan], int]:
    """The sequences' spans in one batch, and the blocks of a cache that has room for them and for one more."""
    counts = [num_blocks(sequence.num_cached + len(sequence.parents)) for sequence in sequences]
    order = list(range(sum(counts) + 1))
    dice.shuffle(order)
    spans: list[SequenceSpan] = []
    start = 0
    for sequence, end, count in zip(sequences, accumulate(counts), counts, strict=True):
        parents, kept, blocks = sequence.parents, sequence.kept, order[end - count : end]
        stop = start + len(parents) - kept
        if list(parents) == list(range(-1, len(parents) - 1)):
            spans.append(
                SequenceSpan(start, stop, sequence.num_cached + kept, blocks, torch.arange(stop - start), None)
            )
        else:
            depth, paths = tree_paths(parents)
            seen = torch.from_numpy(paths[kept:])
            spans.append(SequenceSpan(start, stop, sequence.num_cached, blocks, torch.from_numpy(depth), seen))
        start = stop
    return spans, len(order)
