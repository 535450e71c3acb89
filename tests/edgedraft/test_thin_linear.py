"""Whatever way a product is made, it is the same product."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgedraft.thin_linear import MOST_ROWS, ROUNDED, ThinLinear, thin


def model(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(96, 160, bias=False), nn.Linear(160, 96, bias=False), nn.Linear(96, 64, bias=False)]
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_gives_the_plain_product(dtype: torch.dtype) -> None:
    plain, thinned = model(dtype), model(dtype)
    thin(thinned)
    for layer in thinned:
        assert isinstance(layer, ThinLinear)
        for rows in range(1, MOST_ROWS + 3):
            x = torch.randn((1, rows, layer.in_features)).to(dtype)
            expected = nn.functional.linear(x, layer.weight)
            for padded in range(rows, MOST_ROWS + 1):
                layer.ways = {rows: padded}
                torch.testing.assert_close(
                    layer(x), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
                )
                assert layer(x).is_contiguous()
    x = torch.randn((1, 3, 96)).to(dtype)
    torch.testing.assert_close(thinned(x), plain(x), rtol=2e-2, atol=2e-2)


def test_a_rounded_draft_stays_close() -> None:
    thinned = model(torch.bfloat16)
    thin(thinned, exact=False)
    (first, *_) = thinned
    assert isinstance(first, ThinLinear)
    x = torch.randn((1, 4, 96)).to(torch.bfloat16)
    exact = nn.functional.linear(x, first.weight)
    if first.rounded is not None:
        first.ways = {4: ROUNDED}
        assert (first(x) - exact).float().norm() < 0.02 * exact.float().norm()


def test_batches_and_other_shapes_take_the_plain_way() -> None:
    thinned = model(torch.float32)
    thin(thinned)
    (first, *_) = thinned
    assert isinstance(first, ThinLinear)
    first.ways = dict.fromkeys(range(1, 9), 8)
    for shape in ((2, 3, 96), (5, 96), (1, 40, 96)):
        x = torch.randn(shape)
        torch.testing.assert_close(first(x), nn.functional.linear(x, first.weight))
