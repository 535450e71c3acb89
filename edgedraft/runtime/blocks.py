"""What every KV cache in blocks has in common, be it of torch or of NumPy. Needs neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

BLOCK_SIZE = 16  # tokens per block


class OutOfBlocks(Exception):
    """The KV cache has too few free blocks."""


class SequenceSlots(Protocol):
    """One sequence's slots in a KV cache: first those of accepted tokens, then those of rows."""

    @property
    def holds_blocks(self) -> bool: ...

    def reserve_slots(self, num_rows: int) -> None:
        """Allocate blocks for `num_rows` rows after the accepted tokens. Raises OutOfBlocks, then changes nothing."""
        ...

    def keep_rows(self, accepted: Sequence[int], kept: Sequence[int]) -> None:
        """Append `accepted` rows to the sequence, move the `kept` rows right behind them, and drop all others.

        Rows are numbered by their slots after the accepted tokens. Accepted rows ascend and are each the parent of the
        next; kept rows ascend and come after them.
        """
        ...

    def truncate(self, length: int) -> None:
        """Drop all tokens after `length`, and all rows, and free their blocks."""
        ...


def num_blocks(tokens: int) -> int:
    """The blocks that this many tokens fill, rounded up."""
    return -(-tokens // BLOCK_SIZE)


def tree_paths(parents: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Depths int64 [rows] and paths bool [rows, rows] of a tree; paths[i, j] tells whether row j is on the path to i.

    parents[i] is the row that row i follows, a lower one, or -1 for none: its depth is 0 then. A row is on its own
    path.
    """
    depths, paths = np.zeros(len(parents), dtype=np.int64), np.eye(len(parents), dtype=np.bool_)
    for row, parent in enumerate(parents):
        if parent >= 0:
            paths[row] |= paths[parent]
            depths[row] = depths[parent] + 1
    return depths, paths
