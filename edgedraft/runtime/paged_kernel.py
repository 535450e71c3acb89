"""Attention over the KV cache's blocks as Triton kernels for CUDA: keys and values are read through the block tables.

Nothing is gathered, and no sequence is padded to another's length. A program of `_attend` has a tile of rows of one
sequence, with all query heads that share a key head, and a split: a run of that sequence's keys. Where a tile has
several splits, `_combine` merges their results (flash decoding). paged_attention.py makes the tables that both read.

Scores, weights and sums are float32. float32 products are not rounded to TF32. The weights of bfloat16 and float16
values are rounded to that type before they are multiplied, as in other attention kernels.
"""

# torch's CUDA build brings Triton along; elsewhere it is missing.
# pyright: reportMissingImports=false, reportIndexIssue=false

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from edgedraft.runtime.block_manager import BLOCK_SIZE

# Bytes of a tile of keys: those of keys and values that are read ahead fit the shared memory of GPUs since Ampere.
KEY_TILE_BYTES = 16384
MIN_TILE, MAX_KEY_TILE = 16, 64  # a product on tensor cores has at least 16 rows and columns
# Rows times grouped heads of a tile. More would not fit the registers: float32 products use no tensor cores.
MAX_TILE = {torch.float32: 16, torch.bfloat16: 64, torch.float16: 64}
NUM_STAGES = 2  # tiles of keys and values that are read ahead
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class KernelTables:
    """What the rows of a forward attend to, on the device. int32, but for tree_masks, which is uint8.

    splits is [splits, 10]. Each row has, of a tile of rows: its first row, its number of rows, the sequence's number of
    cached tokens and its first entry in block_tables; then the first key of the split and the one after its last; the
    entries per row of the sequence's tree mask (0 for a chain), the tile's first entry in tree_masks and the sequence's
    first one in tree_positions; and the place of the result among the partial ones, -1 where it is the tile's only one.

    merges is [tiles, 4], of tiles with several splits: first row, number of rows, first place and number of partial
    results. positions is [rows], of the rows. Columns of a tree mask are kept rows and rows, and tree_positions has
    their positions. num_partials is the number of partial results, tile that of rows times grouped heads in a tile.
    """

    splits: torch.Tensor
    merges: torch.Tensor
    block_tables: torch.Tensor
    positions: torch.Tensor
    tree_masks: torch.Tensor
    tree_positions: torch.Tensor
    num_partials: int
    tile: int


def attend_to_blocks(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    tables: KernelTables,
    window: int | None,
    scale: float | None,
) -> None:
    """Write the attention of the rows in `tables` to `out` [rows, heads, dim].

    query is [kv_heads, group, rows, dim]; keys and values are [blocks, BLOCK_SIZE, kv_heads, dim], contiguous as out
    is. A row attends to its path, limited to the `window` positions up to its own where there is one.
    """
    kv_heads, group, _, dim = query.shape
    value_dim = values.shape[-1]
    query = query if query.stride(3) == 1 else query.contiguous()
    key_columns, value_columns = num_columns(dim), num_columns(value_dim)
    partials = query.new_empty((tables.num_partials, kv_heads, tables.tile, value_columns), dtype=torch.float32)
    statistics = query.new_empty((tables.num_partials, kv_heads, 2, tables.tile), dtype=torch.float32)
    with torch.cuda.device_of(query):  # Triton launches on the current device
        _attend[len(tables.splits), kv_heads](
            query,
            keys,
            values,
            out,
            partials,
            statistics,
            tables.splits,
            tables.block_tables,
            tables.positions,
            tables.tree_masks,
            tables.tree_positions,
            (dim**-0.5 if scale is None else scale) * LOG2_E,
            query.stride(0),
            query.stride(1),
            query.stride(2),
            KV_HEADS=kv_heads,
            GROUP=group,
            DIM=dim,
            VALUE_DIM=value_dim,
            KEY_COLUMNS=key_columns,
            VALUE_COLUMNS=value_columns,
            TILE=tables.tile,
            KEY_TILE=key_tile(max(key_columns, value_columns), keys.element_size()),
            BLOCK=BLOCK_SIZE,
            WINDOW=window or 0,
            WIDEN=INTERPRETED,
            num_warps=num_warps(tables.tile),
            num_stages=NUM_STAGES,
        )
        if len(tables.merges):
            _combine[len(tables.merges), kv_heads](
                partials,
                statistics,
                out,
                tables.merges,
                KV_HEADS=kv_heads,
                GROUP=group,
                VALUE_DIM=value_dim,
                VALUE_COLUMNS=value_columns,
                TILE=tables.tile,
            )


def tile_sizes(group: int, dtype: torch.dtype) -> list[int]:
    """The sizes that tiles may have, in rows times grouped heads: powers of two, each with room for a row."""
    smallest = max(MIN_TILE, next_power_of_2(group))
    largest = max(smallest, MAX_TILE[dtype])
    return [1 << power for power in range(smallest.bit_length() - 1, largest.bit_length())]


def tile_size(rows: int, group: int, dtype: torch.dtype) -> int:
    """The size of tiles where sequences have at most `rows` rows."""
    sizes = tile_sizes(group, dtype)
    return next((size for size in sizes if size >= rows * group), sizes[-1])


def key_tile(columns: int, element_size: int) -> int:
    """Keys of a tile."""
    return max(MIN_TILE, min(MAX_KEY_TILE, KEY_TILE_BYTES // (columns * element_size)))


def num_warps(tile: int) -> int:
    return 8 if tile >= 64 else 4


def num_columns(dim: int) -> int:
    """Columns of a tile that holds `dim`: a power of two."""
    return max(MIN_TILE, next_power_of_2(dim))


def next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@triton.jit
def _multiply(a, b, WIDEN: tl.constexpr):
    """a @ b in float32. WIDEN, which changes no product, is for Triton's interpreter: it cannot multiply bfloat16."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _nonzero(total):
    """1 for a row beyond the sequence's, which fills up a tile and may have seen no key."""
    return tl.where(total > 0.0, total, 1.0)


@triton.jit
def _attend(
    query,
    keys,
    values,
    out,
    partials,
    statistics,
    splits,
    block_tables,
    positions,
    tree_masks,
    tree_positions,
    scale,
    kv_head_stride,
    head_stride,
    row_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_COLUMNS: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
    KEY_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    WINDOW: tl.constexpr,
    WIDEN: tl.constexpr,
):
    split = splits + tl.program_id(0) * 10
    head = tl.program_id(1)
    first_row = tl.load(split)
    num_rows = tl.load(split + 1)
    num_cached = tl.load(split + 2)
    first_block = tl.load(split + 3)
    begin = tl.load(split + 4)
    end = tl.load(split + 5)
    tree_width = tl.load(split + 6)
    first_mask = tl.load(split + 7)
    first_tree_position = tl.load(split + 8)
    place = tl.load(split + 9)

    at = tl.arange(0, TILE)
    row = at // GROUP  # of the tile; the group's heads are rows beside each other
    in_tile = row < num_rows
    position = tl.load(positions + first_row + row, mask=in_tile, other=0)
    key_column = tl.arange(0, KEY_COLUMNS)
    value_column = tl.arange(0, VALUE_COLUMNS)
    query_row = query + head * kv_head_stride + (at % GROUP) * head_stride + (first_row + row) * row_stride
    q = tl.load(
        query_row[:, None] + key_column[None, :], mask=in_tile[:, None] & (key_column < DIM)[None, :], other=0.0
    )
    if WINDOW > 0:  # keys before the window of every row are not read
        oldest = tl.min(tl.where(in_tile, position, 1 << 30), 0) - WINDOW + 1
        begin = tl.maximum(begin, tl.maximum(oldest, 0) // KEY_TILE * KEY_TILE)

    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, VALUE_COLUMNS], tl.float32)
    for first_key in range(begin, end, KEY_TILE):
        key = first_key + tl.arange(0, KEY_TILE)
        in_split = key < end
        block = tl.load(block_tables + first_block + key // BLOCK, mask=in_split, other=0).to(tl.int64)
        slot = (block * BLOCK + key % BLOCK) * KV_HEADS + head
        k = tl.load(
            keys + slot[None, :] * DIM + key_column[:, None],
            mask=in_split[None, :] & (key_column < DIM)[:, None],
            other=0.0,
        )
        scores = _multiply(q, k, WIDEN) * scale

        column = key - num_cached
        in_tree = in_split & (column >= 0) & (tree_width > 0)
        entry = first_mask + row[:, None] * tree_width + column[None, :]
        on_path = tl.load(tree_masks + entry, mask=in_tile[:, None] & in_tree[None, :], other=1)
        # A tree attends to all that precedes it; in a chain, a key's number is its position.
        seen = (on_path != 0) & ((tree_width > 0) | (key[None, :] <= position[:, None])) & in_split[None, :]
        if WINDOW > 0:
            key_position = tl.load(tree_positions + first_tree_position + column, mask=in_tree, other=0)
            key_position = tl.where(in_tree, key_position, key)
            seen = seen & (key_position[None, :] > position[:, None] - WINDOW)
        scores = tl.where(seen, scores, float("-inf"))

        larger = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(larger == float("-inf"), 0.0, larger)  # a row may see no key of this split
        weights = tl.exp2(scores - base[:, None])
        decay = tl.exp2(largest - base)
        v = tl.load(
            values + slot[:, None] * VALUE_DIM + value_column[None, :],
            mask=in_split[:, None] & (value_column < VALUE_DIM)[None, :],
            other=0.0,
        )
        total = total * decay + tl.sum(weights, 1)
        mixed = mixed * decay[:, None] + _multiply(weights.to(v.dtype), v, WIDEN)
        largest = larger

    if place < 0:
        out_row = out + ((first_row + row) * KV_HEADS * GROUP + head * GROUP + at % GROUP) * VALUE_DIM
        tl.store(
            out_row[:, None] + value_column[None, :],
            (mixed / _nonzero(total)[:, None]).to(out.dtype.element_ty),
            mask=in_tile[:, None] & (value_column < VALUE_DIM)[None, :],
        )
    else:
        partial = (place * KV_HEADS + head).to(tl.int64)
        tl.store(partials + (partial * TILE + at[:, None]) * VALUE_COLUMNS + value_column[None, :], mixed)
        tl.store(statistics + partial * 2 * TILE + at, largest)
        tl.store(statistics + partial * 2 * TILE + TILE + at, total)


@triton.jit
def _combine(
    partials,
    statistics,
    out,
    merges,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_COLUMNS: tl.constexpr,
    TILE: tl.constexpr,
):
    merge = merges + tl.program_id(0) * 4
    head = tl.program_id(1)
    first_row = tl.load(merge)
    num_rows = tl.load(merge + 1)
    first_place = tl.load(merge + 2)
    num_splits = tl.load(merge + 3)
    at = tl.arange(0, TILE)
    row = at // GROUP
    in_tile = row < num_rows
    value_column = tl.arange(0, VALUE_COLUMNS)

    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    mixed = tl.zeros([TILE, VALUE_COLUMNS], tl.float32)
    for place in range(first_place, first_place + num_splits):
        partial = (place * KV_HEADS + head).to(tl.int64)
        split_largest = tl.load(statistics + partial * 2 * TILE + at)
        split_total = tl.load(statistics + partial * 2 * TILE + TILE + at)
        split_mixed = tl.load(partials + (partial * TILE + at[:, None]) * VALUE_COLUMNS + value_column[None, :])
        larger = tl.maximum(largest, split_largest)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        decay = tl.exp2(largest - base)
        weight = tl.exp2(split_largest - base)
        total = total * decay + split_total * weight
        mixed = mixed * decay[:, None] + split_mixed * weight[:, None]
        largest = larger

    out_row = out + ((first_row + row) * KV_HEADS * GROUP + head * GROUP + at % GROUP) * VALUE_DIM
    tl.store(
        out_row[:, None] + value_column[None, :],
        (mixed / _nonzero(total)[:, None]).to(out.dtype.element_ty),
        mask=in_tile[:, None] & (value_column < VALUE_DIM)[None, :],
    )


INTERPRETED = not isinstance(_attend, JITFunction)  # TRITON_INTERPRET=1 runs the kernels in NumPy, on any device
