"""Attention of a packed forward: rows of many sequences, trees among them, each over its own blocks of the KV cache.

It enters the model's own code through transformers' AttentionInterface. A Batch tells, for one forward, where the rows'
keys and values go and which rows look where; what is in the batch, and what becomes of it, is paged.py's.

A call costs something whatever it does, so sequences with few rows attend together, padded to the longest. On a CPU
that is for those of like size, and no more of them than its cache holds; on an accelerator, where a call costs more
than what it does, for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager

ATTENTION = "edgedraft_paged"
FEW_ROWS = 64  # sequences with more rows, prompts, attend on their own
CPU_KEYS = 2048  # of one call, padding included
MOST_PRODUCT_HEADS = 4  # key heads, and
FEWEST_PRODUCT_KEYS = 512  # keys of all sequences, for which _by_products is the faster way
CPU_PADDING = 1.3  # work of a padded call over that of its sequences, at most


class UnsupportedModel(Exception):
    """The model keeps state or wants an attention that a paged cache of keys and values cannot give it."""


@dataclass(frozen=True)
class SequenceSpan:
    """One sequence's rows in a batch: rows `start` to `stop`, behind `length` tokens, over `blocks`.

    depth [rows] counts from the sequence's end; tree_mask [rows, rows] tells which rows attend to which, None for a
    chain.
    """

    start: int
    stop: int
    length: int
    blocks: Sequence[int]
    depth: torch.Tensor
    tree_mask: torch.Tensor | None

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def keys(self) -> int:
        return self.length + self.rows

    def mask(self, window: int | None) -> torch.Tensor:
        """bool [rows, keys]: which row mask which key, no further back than a sliding `window` if there is one."""
        own = torch.ones((self.rows, self.rows), dtype=torch.bool).tril() if self.tree_mask is None else self.tree_mask
        mask = torch.cat([torch.ones((self.rows, self.length), dtype=torch.bool), own], dim=1)
        if window is not None and self.keys > window:
            depth = self.length + self.depth
            mask &= torch.cat([torch.arange(self.length), depth])[None, :] > depth[:, None] - window
        return mask

    def attends_to_all(self, window: int | None) -> bool:
        return self.rows == 1 and (window is None or self.keys <= window)


class Part(Protocol):
    """Rows that attend in one call."""

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        """Write what these rows attend to into heads.out."""
        ...


@dataclass(frozen=True)
class PackedBatch:
    """What the attention of one forward needs to know; `slots` [rows] are where its keys and values go."""

    kv: BlockManager
    slots: torch.Tensor
    parts: Sequence[Part]


@dataclass(frozen=True)
class _Heads:
    """One layer's query [kv heads, group, rows, dim], its stores [blocks, BLOCK, kv heads, dim] and where results go.

    out is [rows, heads, dim]. The query heads of a group share a key head: they become more rows of it, so that keys
    are never repeated.
    """

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    out: torch.Tensor


def grouped(sizes: Sequence[tuple[int, int]], bounded: bool) -> list[list[int]]:
    """Who attends with whom: indices into `sizes`, which are (rows, keys); `bounded` by CPU_KEYS and CPU_PADDING."""
    groups = [[i] for i, (rows, _) in enumerate(sizes) if rows > FEW_ROWS]
    few = sorted((rows, keys, i) for i, (rows, keys) in enumerate(sizes) if rows <= FEW_ROWS)
    group: list[int] = []
    work = most_keys = 0
    for rows, keys, i in few:
        most_keys = max(most_keys, keys)
        padded = (len(group) + 1) * most_keys
        if group and bounded and (padded > CPU_KEYS or padded * rows > CPU_PADDING * (work + rows * keys)):
            groups.append(group)
            group, work, most_keys = [], 0, keys
        group.append(i)
        work += rows * keys
    return [*groups, group] if group else groups


def part_of(kv: BlockManager, spans: Sequence[SequenceSpan]) -> Part:
    """The spans of one group, whose rows lie one behind the other."""
    return _Alone(spans[0], kv.device, kv.dtype) if len(spans) == 1 else _Together(spans, kv.device, kv.dtype)


class _Alone:
    """One sequence."""

    def __init__(self, span: SequenceSpan, device: torch.device, dtype: torch.dtype) -> None:
        self._span = span
        self._dtype = dtype
        self._blocks = torch.tensor(span.blocks, device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        span = self._span
        kv_heads, group, _, dim = heads.query.shape
        attended = _sdpa(
            heads.query[:, :, span.start : span.stop].reshape(1, kv_heads, group * span.rows, dim),
            self._held(heads.keys),
            self._held(heads.values),
            self._mask(group, window),
            scale,
        )
        heads.out[span.start : span.stop] = attended.view(kv_heads * group, span.rows, -1).transpose(0, 1)

    def _held(self, store: torch.Tensor) -> torch.Tensor:
        """[1, keys, kv heads, dim]. Copied block by block: faster than attending to them where they lie."""
        return store.index_select(0, self._blocks).flatten(0, 1)[None, : self._span.keys]

    def _mask(self, group: int, window: int | None) -> torch.Tensor | None:
        if (group, window) not in self._masks:
            made = None
            if not self._span.attends_to_all(window):
                made = _additive(self._span.mask(window), self._dtype).repeat(group, 1).to(self._blocks.device)
            self._masks[group, window] = made
        return self._masks[group, window]


class _Together:
    """Several sequences, padded to the most rows and to the most blocks of any of them."""

    def __init__(self, spans: Sequence[SequenceSpan], device: torch.device, dtype: torch.dtype) -> None:
        self._spans = spans
        self._device, self._dtype = device, dtype
        self._start, self._stop = spans[0].start, spans[-1].stop
        self._rows = max(span.rows for span in spans)
        self._blocks = max(len(span.blocks) for span in spans)
        padded = [[*span.blocks, *[0] * (self._blocks - len(span.blocks))] for span in spans]
        self._table = torch.tensor(padded, device=device).flatten()
        self._places: torch.Tensor | None = None  # the row at each padded place
        self._real: torch.Tensor | None = None  # the padded place of each row
        if self._stop - self._start < len(spans) * self._rows:
            places = [list(range(span.start, span.stop)) + [span.start] * (self._rows - span.rows) for span in spans]
            real = [i * self._rows + row for i, span in enumerate(spans) for row in range(span.rows)]
            self._places = torch.tensor(places, device=device).flatten()
            self._real = torch.tensor(real, device=device)
        keys = len(spans) * self._blocks * BLOCK_SIZE
        self._by_products = device.type == "cpu" and dtype == torch.bfloat16 and keys >= FEWEST_PRODUCT_KEYS
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        kv_heads, group, _, dim = heads.query.shape
        count, rows = len(self._spans), self._rows
        if self._places is None:
            query = heads.query[:, :, self._start : self._stop]
        else:
            query = heads.query.index_select(2, self._places)
        query = query.reshape(kv_heads, group, count, rows, dim).permute(2, 0, 1, 3, 4)
        attend = _by_products if self._by_products and kv_heads <= MOST_PRODUCT_HEADS else _sdpa
        attended = attend(
            query.reshape(count, kv_heads, group * rows, dim),
            self._held(heads.keys),
            self._held(heads.values),
            self._mask(group, window),
            scale,
        )
        attended = attended.view(count, kv_heads, group, rows, -1).permute(0, 3, 1, 2, 4)
        attended = attended.reshape(count * rows, kv_heads * group, -1)
        if self._real is not None:
            attended = attended.index_select(0, self._real)
        heads.out[self._start : self._stop] = attended

    def _held(self, store: torch.Tensor) -> torch.Tensor:
        """[sequences, keys, kv heads, dim]"""
        held = store.index_select(0, self._table)
        return held.view(len(self._spans), self._blocks * BLOCK_SIZE, *store.shape[2:])

    def _mask(self, group: int, window: int | None) -> torch.Tensor:
        if (group, window) not in self._masks:
            mask = torch.zeros((len(self._spans), self._rows, self._blocks * BLOCK_SIZE), dtype=torch.bool)
            mask[:, :, 0] = True  # rows that are padding look somewhere
            for i, span in enumerate(self._spans):
                mask[i, : span.rows, : span.keys] = span.mask(window)
            made = _additive(mask, torch.float32 if self._by_products else self._dtype).repeat(1, group, 1)[:, None]
            self._masks[group, window] = made.to(self._device)
        return self._masks[group, window]


def _sdpa(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """query [n, kv heads, rows, dim]; keys, values [n, keys, kv heads, dim]; mask [rows, keys] or [n, 1, rows, keys].

    A single row in bfloat16 is slower on a CPU than two.
    """
    double = query.shape[2] == 1 and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if double:
        query = query.expand(-1, -1, 2, -1)
        mask = mask if mask is None else mask.expand(*mask.shape[:-2], 2, -1)
    attended = scaled_dot_product_attention(
        query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return attended[:, :, :1].contiguous() if double else attended


def _by_products(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Attention as two products of all sequences, each over all key heads at once; bfloat16.

    Shapes are _sdpa's; the mask is float32. A query row is zero outside its own head, so that most of the arithmetic
    is for nothing; it is still half the time of SDPA, whose products are one a head and a sequence. Scores are rounded
    to bfloat16, as in transformers' eager attention.
    """
    count, kv_heads, rows, dim = query.shape
    spread = query.new_zeros((count, kv_heads, rows, kv_heads, dim))
    spread.diagonal(dim1=1, dim2=3).copy_(query.mul(dim**-0.5 if scale is None else scale).permute(0, 2, 3, 1))
    scores = torch.bmm(spread.view(count, kv_heads * rows, kv_heads * dim), keys.flatten(2).transpose(1, 2))
    scores = scores.view(count, kv_heads, rows, -1)
    if mask is not None:
        scores = scores + mask
    p = scores.softmax(dim=-1).to(query.dtype)
    mixed = torch.bmm(p.view(count, kv_heads * rows, -1), values.flatten(2)).view(count, kv_heads, rows, kv_heads, -1)
    return mixed.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `mask`, else -inf. Made once for all layers: SDPA turns a bool mask into this in each."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: PackedBatch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, dim], key and value [1, kv heads, rows, dim]; returns [1, rows, heads, dim]."""
    if packed is None or softcap is not None or s_aux is not None:
        raise UnsupportedModel("paged attention has no soft cap and no sinks, and needs a packed batch")
    rows_k, rows_v = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = packed.kv.layer_kv(int(module.layer_idx), rows_k, rows_v)  # type: ignore[arg-type]
    keys.flatten(0, 1).index_copy_(0, packed.slots, rows_k)
    values.flatten(0, 1).index_copy_(0, packed.slots, rows_v)
    heads, rows, dim = query.shape[1:]
    out = query.new_empty((rows, heads, value.shape[-1]))
    grouped = _Heads(query.view(key.shape[1], -1, rows, dim), keys, values, out)
    for part in packed.parts:
        part.attend(grouped, sliding_window, scaling)
    return out[None], None


AttentionInterface.register(ATTENTION, _paged_attention)
