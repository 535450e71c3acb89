"""Which sequences of a packed forward attend in one kernel call, and that call: gather keys and values, mask, attend.

A kernel call has a fixed cost, so sequences with few rows are padded to a common shape and share one. On a CPU a group
holds sequences of similar size, up to what the processor cache holds. On an accelerator, where the fixed cost exceeds
the cost of padding, it holds all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from edgedraft.runtime.attention_kernels import additive_mask, bmm_attention, sdpa_attention
from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager

MAX_GROUPED_ROWS = 64  # a sequence with more rows (a prompt) has a call to itself
MAX_GROUP_KEYS_ON_CPU = 2048  # keys per call, padding included
MAX_PADDING_ON_CPU = 1.3  # rows * keys of a padded call / rows * keys of its sequences
# bmm_attention is faster than SDPA up to this many key heads and from this many keys of all sequences.
MAX_BMM_KV_HEADS = 4
MIN_BMM_KEYS = 512


@dataclass(frozen=True)
class SequenceSpan:
    """One sequence in a packed batch: rows `start` to `stop`, which follow `num_cached` tokens in the KV cache.

    Between those tokens and the rows there may be kept rows: rows of earlier forwards, which only their descendants
    attend to. blocks is the block table, with the blocks that the rows are written to. depth is int64 [kept + rows]: a
    row's position minus num_cached. tree_mask is bool [rows, kept + rows]: entry (i, j) is True where row i attends to
    row j; None means causal, that is, the rows are a chain and none are kept.
    """

    start: int
    stop: int
    num_cached: int
    blocks: Sequence[int]
    depth: torch.Tensor
    tree_mask: torch.Tensor | None

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def num_keys(self) -> int:
        return self.num_cached + len(self.depth)

    @property
    def positions(self) -> torch.Tensor:
        """int64 [rows]"""
        return self.num_cached + self.depth[len(self.depth) - self.num_rows :]

    def attention_mask(self, window: int | None) -> torch.Tensor:
        """bool [rows, keys], True where a row attends to a key; limited to a sliding `window` where the layer has one.

        The keys are the cached tokens, the kept rows and the rows themselves.
        """
        among_rows = self.tree_mask
        if among_rows is None:
            among_rows = torch.ones((self.num_rows, self.num_rows), dtype=torch.bool).tril()
        mask = torch.cat([torch.ones((self.num_rows, self.num_cached), dtype=torch.bool), among_rows], dim=1)
        if window is not None and self.num_keys > window:
            key_positions = torch.cat([torch.arange(self.num_cached), self.num_cached + self.depth])
            mask &= key_positions[None, :] > self.positions[:, None] - window
        return mask

    def attends_to_all(self, window: int | None) -> bool:
        """Whether attention_mask is True everywhere."""
        if self.num_rows != 1 or (window is not None and self.num_keys > window):
            return False
        return self.tree_mask is None or bool(self.tree_mask.all())


@dataclass(frozen=True)
class LayerInputs:
    """One layer's query [kv_heads, group, rows, dim], KV cache [blocks, BLOCK_SIZE, kv_heads, dim] and output.

    out is [rows, heads, dim]. The query heads of a group share a key head (grouped-query attention). They are treated
    as further rows of that head, so keys are never repeated.
    """

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    out: torch.Tensor


class AttentionGroup(Protocol):
    """Sequences that attend in one kernel call. Block tables and masks are built once and serve every layer."""

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        """Write the attention output of this group's rows to layer.out."""
        ...


def group_sequences(sizes: Sequence[tuple[int, int]], bounded: bool) -> list[list[int]]:
    """Partition sequences of `sizes` (rows, keys) into groups of indices.

    `bounded` applies MAX_GROUP_KEYS_ON_CPU and MAX_PADDING_ON_CPU.
    """
    groups = [[i] for i, (rows, _) in enumerate(sizes) if rows > MAX_GROUPED_ROWS]
    small = sorted((rows, keys, i) for i, (rows, keys) in enumerate(sizes) if rows <= MAX_GROUPED_ROWS)
    group: list[int] = []
    work = max_keys = 0
    for rows, keys, i in small:
        max_keys = max(max_keys, keys)
        padded_keys = (len(group) + 1) * max_keys
        over_keys = padded_keys > MAX_GROUP_KEYS_ON_CPU
        if group and bounded and (over_keys or padded_keys * rows > MAX_PADDING_ON_CPU * (work + rows * keys)):
            groups.append(group)
            group, work, max_keys = [], 0, keys
        group.append(i)
        work += rows * keys
    return [*groups, group] if group else groups


def make_attention_group(block_manager: BlockManager, spans: Sequence[SequenceSpan]) -> AttentionGroup:
    """The group of `spans`, whose rows must be adjacent in the batch."""
    device, dtype = block_manager.device, block_manager.dtype
    return _SingleSequence(spans[0], device, dtype) if len(spans) == 1 else _PaddedSequences(spans, device, dtype)


class _SingleSequence:
    """One sequence, without padding."""

    def __init__(self, span: SequenceSpan, device: torch.device, dtype: torch.dtype) -> None:
        self._span = span
        self._dtype = dtype
        self._blocks = torch.tensor(span.blocks, device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        span = self._span
        kv_heads, group, _, dim = layer.query.shape
        attended = sdpa_attention(
            layer.query[:, :, span.start : span.stop].reshape(1, kv_heads, group * span.num_rows, dim),
            self._gather(layer.keys),
            self._gather(layer.values),
            self._mask(group, window),
            scale,
        )
        layer.out[span.start : span.stop] = attended.view(kv_heads * group, span.num_rows, -1).transpose(0, 1)

    def _gather(self, cache: torch.Tensor) -> torch.Tensor:
        """[1, keys, kv_heads, dim]. Copying whole blocks is faster than attending to them in place."""
        return cache.index_select(0, self._blocks).flatten(0, 1)[None, : self._span.num_keys]

    def _mask(self, group: int, window: int | None) -> torch.Tensor | None:
        """[group * rows, keys], None where nothing is masked."""
        if (group, window) not in self._masks:
            mask = None
            if not self._span.attends_to_all(window):
                mask = additive_mask(self._span.attention_mask(window), self._dtype).repeat(group, 1)
                mask = mask.to(self._blocks.device)
            self._masks[group, window] = mask
        return self._masks[group, window]


class _PaddedSequences:
    """Several sequences, padded to the largest number of rows and of blocks among them."""

    def __init__(self, spans: Sequence[SequenceSpan], device: torch.device, dtype: torch.dtype) -> None:
        self._spans = spans
        self._device, self._dtype = device, dtype
        self._start, self._stop = spans[0].start, spans[-1].stop
        self._num_rows = max(span.num_rows for span in spans)
        self._num_blocks = max(len(span.blocks) for span in spans)
        padded = [[*span.blocks, *[0] * (self._num_blocks - len(span.blocks))] for span in spans]
        self._block_tables = torch.tensor(padded, device=device).flatten()
        self._source_rows: torch.Tensor | None = None  # batch row of each padded row
        self._padded_rows: torch.Tensor | None = None  # padded row of each batch row
        if self._stop - self._start < len(spans) * self._num_rows:
            self._source_rows, self._padded_rows = self._row_indices()
        keys = len(spans) * self._num_blocks * BLOCK_SIZE
        self._may_use_bmm = device.type == "cpu" and dtype == torch.bfloat16 and keys >= MIN_BMM_KEYS
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(self, layer: LayerInputs, window: int | None, scale: float | None) -> None:
        kv_heads, group, _, dim = layer.query.shape
        count, rows = len(self._spans), self._num_rows
        if self._source_rows is None:
            query = layer.query[:, :, self._start : self._stop]
        else:
            query = layer.query.index_select(2, self._source_rows)
        query = query.reshape(kv_heads, group, count, rows, dim).permute(2, 0, 1, 3, 4)
        kernel = bmm_attention if self._may_use_bmm and kv_heads <= MAX_BMM_KV_HEADS else sdpa_attention
        attended = kernel(
            query.reshape(count, kv_heads, group * rows, dim),
            self._gather(layer.keys),
            self._gather(layer.values),
            self._mask(group, window),
            scale,
        )
        attended = attended.view(count, kv_heads, group, rows, -1).permute(0, 3, 1, 2, 4)
        attended = attended.reshape(count * rows, kv_heads * group, -1)
        if self._padded_rows is not None:
            attended = attended.index_select(0, self._padded_rows)
        layer.out[self._start : self._stop] = attended

    def _row_indices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch row of each padded row, padded row of each batch row); padding repeats a sequence's first row."""
        source = [[*range(s.start, s.stop), *[s.start] * (self._num_rows - s.num_rows)] for s in self._spans]
        padded = [i * self._num_rows + row for i, span in enumerate(self._spans) for row in range(span.num_rows)]
        return torch.tensor(source, device=self._device).flatten(), torch.tensor(padded, device=self._device)

    def _gather(self, cache: torch.Tensor) -> torch.Tensor:
        """[sequences, keys, kv_heads, dim]"""
        gathered = cache.index_select(0, self._block_tables)
        return gathered.view(len(self._spans), self._num_blocks * BLOCK_SIZE, *cache.shape[2:])

    def _mask(self, group: int, window: int | None) -> torch.Tensor:
        """[sequences, 1, group * rows, keys]"""
        if (group, window) not in self._masks:
            mask = torch.zeros((len(self._spans), self._num_rows, self._num_blocks * BLOCK_SIZE), dtype=torch.bool)
            mask[:, :, 0] = True  # a padding row without any key would be NaN
            for i, span in enumerate(self._spans):
                mask[i, : span.num_rows, : span.num_keys] = span.attention_mask(window)
            additive = additive_mask(mask, torch.float32 if self._may_use_bmm else self._dtype)
            self._masks[group, window] = additive.repeat(1, group, 1)[:, None].to(self._device)
        return self._masks[group, window]
