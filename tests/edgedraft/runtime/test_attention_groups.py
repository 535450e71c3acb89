"""Attention groups: masks, who shares a kernel call, and outputs equal to dense attention over each sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgedraft.runtime.attention_groups import (
    MAX_GROUPED_ROWS,
    MAX_PADDING_ON_CPU,
    MIN_BMM_KEYS,
    LayerInputs,
    SequenceSpan,
    group_sequences,
    make_attention_group,
)
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager
from edgedraft.runtime.paged_attention import make_paged_group
from tests.support.triton_interpreter import runs_interpreted

KV_HEADS, GROUP, DIM = 2, 3, 8
CPU = torch.device("cpu")


def chain(start: int, rows: int, num_cached: int, blocks: list[int]) -> SequenceSpan:
    return SequenceSpan(start, start + rows, num_cached, blocks, torch.arange(rows), None)


def branch(start: int, num_cached: int, blocks: list[int]) -> SequenceSpan:
    """Rows 1 and 2 follow row 0, row 3 follows row 2."""
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    return SequenceSpan(start, start + 4, num_cached, blocks, torch.tensor([0, 1, 1, 2]), mask)


def continued_branch(start: int, num_cached: int, blocks: list[int]) -> SequenceSpan:
    """Two rows behind three kept ones, of which 1 and 2 follow 0: row 3 follows row 1, row 4 follows row 2."""
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], dtype=torch.bool)
    return SequenceSpan(start, start + 2, num_cached, blocks, torch.tensor([0, 1, 1, 2, 2]), mask)


# Masks


def test_a_chain_is_causal_behind_its_cached_tokens() -> None:
    mask = chain(0, rows=3, num_cached=2, blocks=[0]).attention_mask(None)
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_a_node_attends_to_the_cached_tokens_and_its_path() -> None:
    mask = branch(0, num_cached=1, blocks=[0]).attention_mask(None)
    assert mask.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_a_sliding_window_counts_positions_rather_than_rows() -> None:
    """Siblings share a position, so the last row (position 5) reaches back to position 3 with a window of 3."""
    mask = branch(0, num_cached=3, blocks=[0]).attention_mask(3)
    assert mask.int().tolist() == [
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 1, 0],
        [0, 0, 0, 1, 0, 1, 1],
    ]


def test_kept_rows_have_positions_of_their_own() -> None:
    """Both rows are at position 4, and with a window of 3 see 2, 3 (a kept row each) and themselves."""
    span = continued_branch(0, num_cached=2, blocks=[0])
    assert span.positions.tolist() == [4, 4]
    assert span.attention_mask(None).int().tolist() == [[1, 1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0, 1]]
    assert span.attention_mask(3).int().tolist() == [[0, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 1]]
    assert span.attention_mask(1).int().tolist() == [[0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1]]


def test_a_single_row_beside_a_kept_branch_needs_a_mask() -> None:
    def span(mask: list[int]) -> SequenceSpan:
        return SequenceSpan(0, 1, 4, [0], torch.tensor([0, 0, 1]), torch.tensor([mask], dtype=torch.bool))

    assert not span([0, 1, 1]).attends_to_all(None)
    assert span([1, 1, 1]).attends_to_all(None)


@pytest.mark.parametrize(("rows", "num_cached"), [(1, 0), (1, 4), (1, 5), (2, 0), (2, 9)])
@pytest.mark.parametrize("window", [None, 5])
def test_a_mask_is_left_out_only_where_it_masks_nothing(rows: int, num_cached: int, window: int | None) -> None:
    span = chain(0, rows, num_cached, [0])
    assert span.attends_to_all(window) == bool(span.attention_mask(window).all())


# Groups


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 900)), max_size=40), st.booleans())
def test_every_sequence_is_in_one_group_and_padding_is_bounded(sizes: list[tuple[int, int]], bounded: bool) -> None:
    groups = group_sequences(sizes, bounded)
    assert sorted(i for group in groups for i in group) == list(range(len(sizes)))
    for group in groups:
        rows, keys = zip(*(sizes[i] for i in group), strict=True)
        if len(group) > 1:
            assert max(rows) <= MAX_GROUPED_ROWS
            if bounded:
                padded = len(group) * max(rows) * max(keys)
                assert padded <= MAX_PADDING_ON_CPU * sum(r * k for r, k in zip(rows, keys, strict=True))


# Outputs


def dense(layer: LayerInputs, span: SequenceSpan, window: int | None, scale: float) -> torch.Tensor:
    """The span's output [rows, heads, dim] in float32, one row, head and key at a time."""
    out = torch.zeros((span.num_rows, KV_HEADS * GROUP, DIM))
    mask = span.attention_mask(window)
    for row in range(span.num_rows):
        for head in range(KV_HEADS * GROUP):
            kv_head, in_group = divmod(head, GROUP)
            query = layer.query[kv_head, in_group, span.start + row].float()
            keys = [at for at in range(span.num_keys) if mask[row, at]]
            places = [(span.blocks[at // BLOCK_SIZE], at % BLOCK_SIZE) for at in keys]
            scores = torch.stack([query @ layer.keys[block, offset, kv_head].float() for block, offset in places])
            values = torch.stack([layer.values[block, offset, kv_head].float() for block, offset in places])
            out[row, head] = (scores * scale).softmax(dim=0) @ values
    return out


def spans() -> list[SequenceSpan]:
    """Chains and trees of different sizes; each table's blocks are out of order."""
    return [
        chain(0, rows=1, num_cached=37, blocks=[5, 1, 9]),
        branch(1, num_cached=18, blocks=[3, 0]),
        chain(5, rows=3, num_cached=0, blocks=[7]),
        continued_branch(8, num_cached=12, blocks=[8, 2]),
    ]


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["single", "padded", pytest.param("paged", marks=runs_interpreted)])
def test_groups_attend_as_dense_attention_does(window: int | None, dtype: torch.dtype, kind: str) -> None:
    torch.manual_seed(0)
    manager = BlockManager(10 * BLOCK_SIZE, dtype, CPU)
    layer = LayerInputs(
        query=torch.randn((KV_HEADS, GROUP, 10, DIM)).to(dtype),
        keys=torch.randn((10, BLOCK_SIZE, KV_HEADS, DIM)).to(dtype),
        values=torch.randn((10, BLOCK_SIZE, KV_HEADS, DIM)).to(dtype),
        out=torch.zeros((10, KV_HEADS * GROUP, DIM), dtype=dtype),
    )
    make_group = make_paged_group if kind == "paged" else make_attention_group
    for group in [[span] for span in spans()] if kind == "single" else [spans()]:
        make_group(manager, group).attend(layer, window, 0.4)
    expected = torch.cat([dense(layer, span, window, 0.4) for span in spans()])
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(layer.out.float(), expected, rtol=tolerance, atol=tolerance)


def test_a_large_bfloat16_group_attends_as_dense_attention_does() -> None:
    """Enough keys for bmm_attention; all rows have equal counts, so none are padded."""
    torch.manual_seed(1)
    manager = BlockManager(MIN_BMM_KEYS, torch.bfloat16, CPU)
    count = MIN_BMM_KEYS // BLOCK_SIZE
    group = [chain(i, rows=1, num_cached=i % BLOCK_SIZE, blocks=[count - 1 - i]) for i in range(count)]
    layer = LayerInputs(
        query=torch.randn((KV_HEADS, GROUP, count, DIM)).bfloat16(),
        keys=torch.randn((count, BLOCK_SIZE, KV_HEADS, DIM)).bfloat16(),
        values=torch.randn((count, BLOCK_SIZE, KV_HEADS, DIM)).bfloat16(),
        out=torch.zeros((count, KV_HEADS * GROUP, DIM), dtype=torch.bfloat16),
    )
    make_attention_group(manager, group).attend(layer, None, 0.4)
    expected = torch.cat([dense(layer, span, None, 0.4) for span in group])
    torch.testing.assert_close(layer.out.float(), expected, rtol=3e-2, atol=3e-2)
