"""Paged attention for a packed forward, registered with transformers' AttentionInterface under the name ATTENTION.

The rows of a packed forward belong to many sequences, draft trees among them; each attends to its own blocks of the KV
cache. A PackedBatch describes that for one forward. packed_model.py builds it, attention_groups.py computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from edgedraft.runtime.attention_groups import AttentionGroup, LayerInputs
from edgedraft.runtime.block_manager import BlockManager

ATTENTION = "edgedraft_paged"


class UnsupportedModel(Exception):
    """The model keeps state other than keys and values, or needs an attention that is not implemented here."""


@dataclass(frozen=True)
class PackedBatch:
    """What the attention layers need to know of one forward.

    slot_mapping is int64 [rows], the KV cache slot that each row's key and value are written to. groups cover all rows.
    """

    block_manager: BlockManager
    slot_mapping: torch.Tensor
    groups: Sequence[AttentionGroup]


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
    """Write keys and values to the cache, then attend.

    query is [1, heads, rows, dim], key and value [1, kv_heads, rows, dim]; the output is [1, rows, heads, dim]. The
    signature is that of transformers' attention functions.
    """
    if packed is None or softcap is not None or s_aux is not None:
        raise UnsupportedModel("paged attention has no soft cap and no sinks, and needs a packed batch")
    new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys, values = packed.block_manager.layer_kv(int(module.layer_idx), new_keys, new_values)  # type: ignore[arg-type]
    keys.flatten(0, 1).index_copy_(0, packed.slot_mapping, new_keys)
    values.flatten(0, 1).index_copy_(0, packed.slot_mapping, new_values)
    heads, rows, dim = query.shape[1:]
    out = query.new_empty((rows, heads, value.shape[-1]))
    layer = LayerInputs(query.view(key.shape[1], -1, rows, dim), keys, values, out)
    for group in packed.groups:
        group.attend(layer, sliding_window, scaling)
    return out[None], None


AttentionInterface.register(ATTENTION, _paged_attention)
