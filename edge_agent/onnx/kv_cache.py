"""The KV cache of drafts that ONNX Runtime runs: per session one array, which a run of that session takes as it is.

Capacity is counted in blocks, as for torch (edgedraft/runtime/block_manager.py). A session's slots are contiguous all
the same, since a graph takes contiguous tensors: an array that becomes too small is copied to one an eighth larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedraft.runtime.blocks import BLOCK_SIZE, OutOfBlocks, num_blocks

SPARE_BLOCKS = 4  # an array may be larger than what is accounted for by these and an eighth


class KvPool:
    """The blocks that are free, and the shape of keys and values: `arrays` per slot, in heads of `head_dim` numbers."""

    def __init__(self, num_tokens: int, arrays: int, kv_heads: int, head_dim: int, dtype: np.dtype) -> None:
        """`num_tokens` is the capacity, rounded up to full blocks."""
        self.num_blocks = self.num_free = num_blocks(num_tokens)
        self._shape, self._dtype = (arrays, kv_heads, head_dim), dtype

    def new_array(self, blocks: int) -> np.ndarray:
        """A zeroed array [arrays, kv_heads, slots, head_dim]."""
        arrays, kv_heads, head_dim = self._shape
        return np.zeros((arrays, kv_heads, blocks * BLOCK_SIZE, head_dim), self._dtype)


class KvSlots:
    """One session's slots: `length` accepted tokens, then rows. See SequenceSlots."""

    def __init__(self, pool: KvPool) -> None:
        self._pool = pool
        self._blocks = 0  # accounted for
        self._array = pool.new_array(0)
        self.length = 0

    @property
    def holds_blocks(self) -> bool:
        return self._blocks > 0

    def view(self, num_slots: int) -> np.ndarray:
        """Keys and values of every layer in turn, [arrays, kv_heads, num_slots, head_dim]."""
        return self._array[:, :, :num_slots]

    def complete_view(self) -> np.ndarray:
        """The same of all slots, used or not: each array of it is contiguous."""
        return self._array

    def write(self, row: int, new: Sequence[np.ndarray], start: int, stop: int) -> None:
        """Copy rows start to stop of a run's outputs, each [kv_heads, rows, head_dim], to the slots from `row` on."""
        first = self.length + row
        for own, array in zip(self._array, new, strict=True):
            own[:, first : first + stop - start] = array[:, start:stop]

    def reserve_slots(self, num_rows: int) -> None:
        """See SequenceSlots."""
        self._resize(max(self._blocks, num_blocks(self.length + num_rows)))

    def keep_rows(self, accepted: Sequence[int], kept: Sequence[int]) -> None:
        """See SequenceSlots."""
        rows = [*accepted, *kept]
        moves = [(row, place) for place, row in enumerate(rows) if row != place]
        if moves:
            source, destination = (self.length + np.array(column) for column in zip(*moves, strict=True))
            self._array[:, :, destination] = self._array[:, :, source]
        self.length += len(accepted)
        self._resize(num_blocks(self.length + len(kept)))

    def truncate(self, length: int) -> None:
        """See SequenceSlots."""
        self.length = length
        self._resize(num_blocks(length))

    def _resize(self, blocks: int) -> None:
        """Account for so many blocks, and copy the array when it is too small or much too large."""
        if blocks - self._blocks > self._pool.num_free:
            raise OutOfBlocks(f"{blocks - self._blocks} blocks wanted, {self._pool.num_free} free")
        self._pool.num_free -= blocks - self._blocks
        self._blocks = blocks
        held, spare = self._array.shape[2] // BLOCK_SIZE, blocks // 8 + SPARE_BLOCKS
        if blocks == 0:
            self._array = self._pool.new_array(0)
        elif held < blocks or held > blocks + 2 * spare:
            array = self._pool.new_array(blocks + spare)
            both = min(held, blocks) * BLOCK_SIZE
            array[:, :, :both] = self._array[:, :, :both]
            self._array = array
