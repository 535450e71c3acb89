"""Attention over padded keys and values: PyTorch's SDPA, and one pair of batched matrix products for bfloat16 on CPUs.

Both take query [n, kv_heads, rows, dim], keys and values [n, keys, kv_heads, dim] and an additive mask, and return
[n, kv_heads, rows, dim]. Which of them a batch uses is decided in attention_groups.py.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


def additive_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where the boolean `mask` is True, -inf elsewhere. SDPA would convert a boolean mask again in every layer."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


def sdpa_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """scaled_dot_product_attention; mask is [rows, keys] or [n, 1, rows, keys], in the query's dtype.

    On a CPU a single bfloat16 row is slower than two, so it is computed twice.
    """
    duplicate = query.shape[2] == 1 and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if duplicate:
        query = query.expand(-1, -1, 2, -1)
        mask = mask if mask is None else mask.expand(*mask.shape[:-2], 2, -1)
    attended = scaled_dot_product_attention(
        query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=scale
    )
    return attended[:, :, :1].contiguous() if duplicate else attended


def bmm_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float | None
) -> torch.Tensor:
    """Two batched matrix products, each over all key heads at once; mask is float32 [n, 1, rows, keys].

    The query is expanded to a block-diagonal [rows * kv_heads, kv_heads * dim], so most multiplications are by zero.
    For few key heads that still takes half the time of SDPA, which runs one small product per head and sequence.
    Scores are rounded to bfloat16, as in transformers' eager attention.
    """
    count, kv_heads, rows, dim = query.shape
    block_diagonal = query.new_zeros((count, kv_heads, rows, kv_heads, dim))
    scaled = query.mul(dim**-0.5 if scale is None else scale)
    block_diagonal.diagonal(dim1=1, dim2=3).copy_(scaled.permute(0, 2, 3, 1))
    scores = torch.bmm(block_diagonal.view(count, kv_heads * rows, kv_heads * dim), keys.flatten(2).transpose(1, 2))
    scores = scores.view(count, kv_heads, rows, -1)
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1).to(query.dtype)
    per_head = torch.bmm(weights.view(count, kv_heads * rows, -1), values.flatten(2))
    per_head = per_head.view(count, kv_heads, rows, kv_heads, -1)
    return per_head.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).contiguous()
