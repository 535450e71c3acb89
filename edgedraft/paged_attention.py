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

from edgedraft.kv import BLOCK, PagedKV

ATTENTION = "edgedraft_paged"
FEW_ROWS = 64  # sequences with more rows, prompts, attend on their own
CPU_KEYS = 2048  # of one call, padding included
CPU_PADDING = 1.3  # work of a padded call over that of its sequences, at most


class UnsupportedModel(Exception):
    """The model keeps state or wants an attention that a paged cache of keys and values cannot give it."""


@dataclass(frozen=True)
class Span:
    """One sequence's rows in a batch: rows `start` to `stop`, behind `length` tokens, over `blocks`.

    depth [rows] counts from the sequence's end; sees [rows, rows] tells which rows see which, None for a chain.
    """

    start: int
    stop: int
    length: int
    blocks: Sequence[int]
    depth: torch.Tensor
    sees: torch.Tensor | None

    @property
    def rows(self) -> int:
        return self.stop - self.start

    @property
    def keys(self) -> int:
        return self.length + self.rows

    def mask(self, window: int | None) -> torch.Tensor:
        """bool [rows, keys]: which row sees which key, no further back than a sliding `window` if there is one."""
        own = torch.ones((self.rows, self.rows), dtype=torch.bool).tril() if self.sees is None else self.sees
        sees = torch.cat([torch.ones((self.rows, self.length), dtype=torch.bool), own], dim=1)
        if window is not None and self.keys > window:
            depth = self.length + self.depth
            sees &= torch.cat([torch.arange(self.length), depth])[None, :] > depth[:, None] - window
        return sees

    def sees_all(self, window: int | None) -> bool:
        return self.rows == 1 and (window is None or self.keys <= window)


class Part(Protocol):
    """Rows that attend in one call."""

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        """Write what these rows attend to into heads.out."""
        ...


@dataclass(frozen=True)
class Batch:
    """What the attention of one forward needs to know; `slots` [rows] are where its keys and values go."""

    kv: PagedKV
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


def batch_of(kv: PagedKV, slots: Sequence[int], spans: Sequence[Span]) -> Batch:
    """Spans in the order of their rows."""
    groups = grouped(spans, bounded=kv.device.type == "cpu")
    parts = [
        _Alone(group[0], kv.device, kv.dtype) if len(group) == 1 else _Together(group, kv.device, kv.dtype)
        for group in groups
    ]
    return Batch(kv, torch.tensor(slots, device=kv.device), parts)


def grouped(spans: Sequence[Span], bounded: bool) -> list[list[Span]]:
    """Who attends with whom; `bounded` by CPU_KEYS and CPU_PADDING."""
    groups = [[span] for span in spans if span.rows > FEW_ROWS]
    few = sorted((span for span in spans if span.rows <= FEW_ROWS), key=lambda span: (span.rows, span.keys))
    group: list[Span] = []
    work = 0
    for span in few:
        rows, keys = span.rows, max(span.keys, *(other.keys for other in group)) if group else span.keys
        padded = (len(group) + 1) * keys
        if group and bounded and (padded > CPU_KEYS or padded * rows > CPU_PADDING * (work + span.rows * span.keys)):
            groups.append(group)
            group, work = [], 0
        group.append(span)
        work += span.rows * span.keys
    return [*groups, group] if group else groups


class _Alone:
    """One sequence."""

    def __init__(self, span: Span, device: torch.device, dtype: torch.dtype) -> None:
        self._span = span
        self._dtype = dtype
        self._blocks = torch.tensor(span.blocks, device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        span = self._span
        kv_heads, group, _, dim = heads.query.shape
        attended = scaled_dot_product_attention(
            heads.query[:, :, span.start : span.stop].reshape(1, kv_heads, group * span.rows, dim),
            self._held(heads.keys),
            self._held(heads.values),
            attn_mask=self._mask(group, window),
            scale=scale,
        )
        attended = attended.view(kv_heads * group, span.rows, -1)
        heads.out[span.start : span.stop] = attended.transpose(0, 1)

    def _held(self, store: torch.Tensor) -> torch.Tensor:
        """[1, kv heads, keys, dim]. Copied block by block: faster than attending to them where they lie."""
        held = store.index_select(0, self._blocks).flatten(0, 1)
        return held[: self._span.keys].transpose(0, 1)[None]

    def _mask(self, group: int, window: int | None) -> torch.Tensor | None:
        if (group, window) not in self._masks:
            made = None
            if not self._span.sees_all(window):
                made = _additive(self._span.mask(window), self._dtype).repeat(group, 1).to(self._blocks.device)
            self._masks[group, window] = made
        return self._masks[group, window]


class _Together:
    """Several sequences, padded to the most rows and to the most blocks of any of them."""

    def __init__(self, spans: Sequence[Span], device: torch.device, dtype: torch.dtype) -> None:
        self._spans = spans
        self._device, self._dtype = device, dtype
        self._rows = max(span.rows for span in spans)
        self._blocks = max(len(span.blocks) for span in spans)
        padded = [[*span.blocks, *[0] * (self._blocks - len(span.blocks))] for span in spans]
        places = [list(range(span.start, span.stop)) + [span.start] * (self._rows - span.rows) for span in spans]
        real = [i * self._rows + row for i, span in enumerate(spans) for row in range(span.rows)]
        self._table = torch.tensor(padded, device=device).flatten()
        self._places = torch.tensor(places, device=device).flatten()
        self._real = torch.tensor(real, device=device)
        self._targets = torch.tensor([row for span in spans for row in range(span.start, span.stop)], device=device)
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(self, heads: _Heads, window: int | None, scale: float | None) -> None:
        kv_heads, group, _, dim = heads.query.shape
        count, rows = len(self._spans), self._rows
        query = heads.query.index_select(2, self._places).view(kv_heads, group, count, rows, dim)
        attended = scaled_dot_product_attention(
            query.permute(2, 0, 1, 3, 4).reshape(count, kv_heads, group * rows, dim),
            self._held(heads.keys),
            self._held(heads.values),
            attn_mask=self._mask(group, window),
            scale=scale,
        )
        attended = attended.view(count, kv_heads, group, rows, -1).permute(0, 3, 1, 2, 4)
        attended = attended.reshape(count * rows, kv_heads * group, -1)
        heads.out.index_copy_(0, self._targets, attended.index_select(0, self._real))

    def _held(self, store: torch.Tensor) -> torch.Tensor:
        """[sequences, kv heads, keys, dim]"""
        held = store.index_select(0, self._table)
        return held.view(len(self._spans), self._blocks * BLOCK, *store.shape[2:]).transpose(1, 2)

    def _mask(self, group: int, window: int | None) -> torch.Tensor:
        if (group, window) not in self._masks:
            sees = torch.zeros((len(self._spans), self._rows, self._blocks * BLOCK), dtype=torch.bool)
            sees[:, :, 0] = True  # rows that are padding look somewhere
            for i, span in enumerate(self._spans):
                sees[i, : span.rows, : span.keys] = span.mask(window)
            made = _additive(sees, self._dtype).repeat(1, group, 1)[:, None]
            self._masks[group, window] = made.to(self._device)
        return self._masks[group, window]


def _additive(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Made once for all layers: a bool mask would be turned into this in each."""
    return torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, float("-inf"))


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: Batch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, dim], key and value [1, kv heads, rows, dim]; returns [1, rows, heads, dim]."""
    if packed is None or softcap is not None or s_aux is not None:
        raise UnsupportedModel("paged attention has no soft cap and no sinks, and needs a packed batch")
    rows_k, rows_v = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = packed.kv.layer(int(module.layer_idx), rows_k, rows_v)  # type: ignore[arg-type]
    keys.flatten(0, 1).index_copy_(0, packed.slots, rows_k)
    values.flatten(0, 1).index_copy_(0, packed.slots, rows_v)
    heads, rows, dim = query.shape[1:]
    out = query.new_empty((rows, heads, value.shape[-1]))
    grouped = _Heads(query.view(key.shape[1], -1, rows, dim), keys, values, out)
    for part in packed.parts:
        part.attend(grouped, sliding_window, scaling)
    return out[None], None


AttentionInterface.register(ATTENTION, _paged_attention)
