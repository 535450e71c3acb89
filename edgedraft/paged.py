"""A transformers causal LM over a paged KV cache: rows of many sequences, trees among them, in one packed forward.

Attention enters through transformers' AttentionInterface, so the model's own code runs unchanged: the forward is a
batch of one whose rows belong to different sequences, and only the attention knows which rows see which. Verifier and
agent both stand on this file; the cache's books are kv.py's. It decides nothing: what goes into a forward, which rows
stay and what their logits mean is the caller's.

The first forward of each layer tells the shapes of its keys and values, so no model's config is guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from edgedraft.kv import KVSequence, PagedKV
from edgedraft.thin_linear import thin

ATTENTION = "edgedraft_paged"


class UnsupportedModel(Exception):
    """The model keeps state or wants an attention that a paged cache of keys and values cannot give it."""


@dataclass(frozen=True)
class Rows:
    """One sequence's rows of a packed forward.

    parents[i] is the row that row i follows, -1 the sequence's last token; None makes them a chain. `wanted` are the
    rows whose logits are asked for.
    """

    sequence: KVSequence
    tokens: Sequence[int]
    parents: Sequence[int] | None = None
    wanted: Sequence[int] = ()


@dataclass
class _Segment:
    """A Rows made ready for attention: where its rows lie, where its keys are, who sees whom."""

    start: int
    stop: int
    slots: torch.Tensor  # of every key, the context's and the rows' own
    key_positions: torch.Tensor
    sees: torch.Tensor | None  # bool [rows, keys]; None: one row that sees all
    masks: dict[tuple[int, int | None], torch.Tensor | None] = field(default_factory=dict)

    def mask(self, groups: int, window: int | None) -> torch.Tensor | None:
        """bool [groups * rows, keys] for `groups` query heads a key head, cut to a sliding window if there is one."""
        if (groups, window) not in self.masks:
            sees = self.sees
            if window is not None and len(self.key_positions) > window:
                rows = self.key_positions[-(self.stop - self.start) :]
                near = self.key_positions[None, :] > rows[:, None] - window
                sees = near if sees is None else sees & near
            self.masks[groups, window] = None if sees is None else sees.repeat(groups, 1)
        return self.masks[groups, window]


@dataclass(frozen=True)
class _Batch:
    kv: PagedKV
    slots: torch.Tensor  # where each row's key and value go
    segments: list[_Segment]


class PackedModel:
    """A causal LM whose forwards are packed. Not safe for use from two threads at once."""

    def __init__(self, model: PreTrainedModel, kv_tokens: int, exact: bool = True) -> None:
        """Takes over `model`, which must be loaded with attention `sdpa` or `eager`.

        One that need not be `exact`, a draft, may be rounded where that is faster (thin_linear.py).

        Raises UnsupportedModel when its packed logits differ from its own.
        """
        self.model = model.eval()
        self.device, self.dtype = model.device, model.dtype
        self.kv = PagedKV(kv_tokens, self.dtype, self.device)
        self._check()
        thin(self.model, exact)

    def sequence(self, salt: str = "") -> KVSequence:
        return KVSequence(self.kv, salt)

    @torch.inference_mode()
    def forward(self, jobs: Sequence[Rows]) -> torch.Tensor:
        """Logits [wanted rows of all jobs, in order, vocab]. Each job's rows then lie beyond its sequence's length.

        Raises OutOfBlocks before anything is computed.
        """
        for job in jobs:
            job.sequence.reserve(len(job.tokens))
        tokens: list[int] = []
        positions: list[torch.Tensor] = []
        wanted: list[int] = []
        segments: list[_Segment] = []
        for job in jobs:
            start, rows, length = len(tokens), len(job.tokens), job.sequence.length
            depth, sees = _shape(job, length)
            tokens.extend(job.tokens)
            wanted.extend(start + row for row in job.wanted)
            positions.append(length + depth)
            segments.append(
                _Segment(
                    start=start,
                    stop=start + rows,
                    slots=job.sequence.slots(0, length + rows),
                    key_positions=torch.cat([torch.arange(length), length + depth]).to(self.device),
                    sees=None if sees is None else sees.to(self.device),
                )
            )
        batch = _Batch(
            kv=self.kv,
            slots=torch.cat([segment.slots[segment.start - segment.stop :] for segment in segments]),
            segments=segments,
        )
        return self.model(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.cat(positions)[None].to(self.device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.int64, device=self.device),
            packed=batch,
        ).logits[0]

    def _check(self) -> None:
        """The packed model must say what the plain one says, also when the context arrives in two parts."""
        ids = [(7 * i + 3) % self.model.config.get_text_config().vocab_size for i in range(12)]
        with torch.inference_mode():
            plain = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0, -1]
        self.model.set_attn_implementation(ATTENTION)
        sequence = self.sequence()
        try:
            self.forward([Rows(sequence, ids[:8], wanted=[7])])
            sequence.keep(range(8))
            packed = self.forward([Rows(sequence, ids[8:], wanted=[3])])[0]
        except (TypeError, KeyError, RuntimeError) as error:
            raise UnsupportedModel(f"{type(self.model).__name__} does not run packed: {error}") from error
        finally:
            sequence.truncate(0)
        spread = plain.float().std().item() or 1.0
        differs = (plain.float() - packed.float()).abs().max().item() > 0.25 * spread
        if differs or self.kv.layers < self.model.config.get_text_config().num_hidden_layers:
            raise UnsupportedModel(f"{type(self.model).__name__} keeps state that a paged KV cache cannot hold")


def _shape(job: Rows, length: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A job's depths [rows] from 0, and which keys each row sees, bool [rows, length + rows] or None for all."""
    rows = len(job.tokens)
    if job.parents is None:
        depth = torch.arange(rows)
        own = torch.ones((rows, rows), dtype=torch.bool).tril() if rows > 1 else None
    else:
        depth = torch.zeros(rows, dtype=torch.int64)
        own = torch.eye(rows, dtype=torch.bool)
        for row, parent in enumerate(job.parents):
            if parent >= 0:
                own[row] |= own[parent]
                depth[row] = depth[parent] + 1
    if own is None:
        return depth, None
    return depth, torch.cat([torch.ones((rows, length), dtype=torch.bool), own], dim=1)


def _paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed: _Batch | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [1, heads, rows, dim], key and value [1, kv heads, rows, dim]; returns [1, rows, heads, dim].

    The query heads that share a key head become more rows of it, so keys are never repeated.
    """
    if packed is None or softcap is not None or s_aux is not None:
        raise UnsupportedModel("paged attention has no soft cap and no sinks, and needs a packed batch")
    rows_k, rows_v = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = packed.kv.layer(int(module.layer_idx), rows_k, rows_v)  # type: ignore[arg-type]
    keys[packed.slots], values[packed.slots] = rows_k, rows_v
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    out = query.new_empty((query.shape[2], heads, value.shape[-1]))
    for segment in packed.segments:
        rows = segment.stop - segment.start
        q = query[0, :, segment.start : segment.stop].reshape(1, kv_heads, groups * rows, -1)
        attended = scaled_dot_product_attention(
            q,
            keys[segment.slots].transpose(0, 1)[None],
            values[segment.slots].transpose(0, 1)[None],
            attn_mask=segment.mask(groups, sliding_window),
            scale=scaling,
        )
        out[segment.start : segment.stop] = attended.reshape(heads, rows, -1).transpose(0, 1)
    return out[None], None


AttentionInterface.register(ATTENTION, _paged_attention)
