"""Both attention kernels equal attention computed from its definition."""

from __future__ import annotations

import pytest
import torch

from edgedraft.runtime.attention_kernels import additive_mask, bmm_attention, sdpa_attention


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_kernels_compute_softmax_attention(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    query, keys, values = (torch.randn(shape).to(dtype) for shape in ((5, 2, rows, 16), (5, 40, 2, 16), (5, 40, 2, 16)))
    mask = torch.zeros((5, 1, rows, 40)).masked_fill(torch.rand((5, 1, rows, 40)) < 0.4, -torch.inf)
    weights = (torch.einsum("nhrd,nkhd->nhrk", query.float(), keys.float()) * 0.3 + mask).softmax(dim=-1)
    expected = torch.einsum("nhrk,nkhd->nhrd", weights, values.float())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for attended in (
        sdpa_attention(query, keys, values, mask.to(dtype), 0.3),
        bmm_attention(query, keys, values, mask, 0.3),
    ):
        torch.testing.assert_close(attended.float(), expected, rtol=tolerance, atol=tolerance)


def test_an_additive_mask_is_0_where_attended_and_minus_infinity_elsewhere() -> None:
    mask = additive_mask(torch.tensor([[True, False]]), torch.float32)
    assert mask.tolist() == [[0.0, -torch.inf]]
