"""All sequences of a packed forward as one attention group that reads the KV cache through block tables (CUDA).

This module divides the work: rows into tiles, and the keys of long sequences into splits, so that a few sessions occupy
the whole device. How the keys are split depends on the sequence alone, not on others in the batch. paged_kernel.py
computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgedraft.runtime.attention_groups import LayerInputs, SequenceSpan
from edgedraft.runtime.block_manager import BlockManager

if TYPE_CHECKING:
    from edgedraft.runtime.paged_kernel import KernelTables

# Keys of a split, for each ROWS_PER_SPLIT rows and grouped heads of the sequence: many rows occupy the device by
# themselves, and their partial results would be large.
SPLIT_KEYS, ROWS_PER_SPLIT = 512, 64


def check_available(device: torch.device) -> None:
    """Raises ValueError, with the reason, where the kernels cannot run on `device`."""
    try:
        from edgedraft.runtime.paged_kernel import INTERPRETED
    except ImportError as error:
        raise ValueError(f"paged attention needs Triton, which comes with torch's CUDA build ({error})") from error
    if device.type != "cuda" and not INTERPRETED:
        raise ValueError(f"paged attention runs on CUDA, not on {device.type}")


def make_paged_group(block_manager: BlockManager, spans: Sequence[SequenceSpan]) -> PagedSequences:
    """The group of `spans`, whose rows must be adjacent in the batch. Raises ImportError where Triton is missing."""
    return PagedSequences(spans, block_manager.device, block_manager.dtype)


class PagedSequences:
    """An AttentionGroup of any sequences: chains, prompts and trees."""

    def __init__(self, spans: Sequence[SequenceSpan], device: torch.device, dtype: torch.dtype) -> None:
        from edgedraft.runtime import paged_kernel

        self._kernel = paged_kernel
        self._spans = spans
        self._device, self._dtype = device, dtype
        self._tables: dict[int, KernelTables] = {}

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        """See AttentionGroup."""
        group = layer.query.shape[1]
        if group not in self._tables:
            tile = self._kernel.tile_size(max(span.num_rows for span in self._spans), group, self._dtype)
            self._tables[group] = self.make_tables(group, tile)
        self._kernel.attend_to_blocks(
            layer.query, layer.keys, layer.values, layer.out, self._tables[group], window, scale
        )

    def make_tables(self, group: int, tile: int) -> KernelTables:
        """The kernel's tables where `group` query heads share a key head. `tile` is a tile's rows times such heads."""
        spans = self._spans
        trees = [(span, span.tree_mask) for span in spans if span.tree_mask is not None]
        splits, merges = divide_work(spans, group, tile)
        positions = torch.zeros(spans[-1].stop, dtype=torch.int64)
        for span in spans:
            positions[span.start : span.stop] = span.positions
        return self._kernel.KernelTables(
            splits=self._upload(np.array(splits)),
            merges=self._upload(np.array(merges).reshape(-1, 4)),
            block_tables=self._upload(np.array([block for span in spans for block in span.blocks])),
            positions=self._upload(positions.numpy()),
            tree_positions=self._upload(_join([(span.num_cached + span.depth).numpy() for span, _ in trees])),
            tree_masks=self._upload(_join([mask.numpy().ravel() for _, mask in trees]), np.uint8),
            num_partials=sum(count for *_, count in merges),
            tile=tile,
        )

    def _upload(self, table: np.ndarray, dtype: type[np.generic] = np.int32) -> torch.Tensor:
        return torch.from_numpy(table.astype(dtype)).to(self._device)


def divide_work(
    spans: Sequence[SequenceSpan], group: int, tile: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, int, int, int]]]:
    """KernelTables.splits and merges, for tiles of `tile` rows times grouped heads."""
    splits: list[tuple[int, ...]] = []
    merges: list[tuple[int, int, int, int]] = []
    first_block = first_mask = first_tree_position = num_partials = 0
    for span in spans:
        width = 0 if span.tree_mask is None else len(span.depth)
        split_keys = SPLIT_KEYS * -(-span.num_rows * group // ROWS_PER_SPLIT)
        for first_row in range(span.start, span.stop, tile // group):
            num_rows = min(tile // group, span.stop - first_row)
            before = first_row - span.start
            num_keys = span.num_keys if width else span.num_cached + before + num_rows
            num_splits = -(-num_keys // split_keys)
            for i in range(num_splits):
                begin, end = i * split_keys, min(num_keys, (i + 1) * split_keys)
                place = num_partials + i if num_splits > 1 else -1
                rows, keys = (first_row, num_rows, span.num_cached, first_block), (begin, end)
                splits.append((*rows, *keys, width, first_mask + before * width, first_tree_position, place))
            if num_splits > 1:
                merges.append((first_row, num_rows, num_partials, num_splits))
                num_partials += num_splits
        first_block += len(span.blocks)
        first_mask += span.num_rows * width
        first_tree_position += width
    return splits, merges


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)
