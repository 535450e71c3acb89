"""A packed layer's output equals the plain layer's, for any shape of its input."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgedraft.runtime import packed_linear
from edgedraft.runtime.device import has_bfloat16_matmul
from edgedraft.runtime.packed_linear import MAX_INT8_ROWS, PackedLinear, pack_linears

BFLOAT16 = has_bfloat16_matmul(torch.device("cpu"))
SHAPES = ((1, 1, 96), (1, 7, 96), (1, 300, 96), (2, 3, 96), (5, 96), (96,))


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack whatever can be packed: on layers this small the measurement has no stable result."""
    monkeypatch.setattr(packed_linear, "_is_packing_faster", lambda weights: True)
    monkeypatch.setattr(packed_linear, "_max_int8_rows", lambda weights: MAX_INT8_ROWS)


def model(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 160), nn.Linear(160, 96, bias=False), nn.Linear(96, 64, bias=False)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_the_plain_one(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    plain, packed = model(dtype), model(dtype)
    can = dtype == torch.float32 or BFLOAT16
    assert pack_linears(packed) == (3 if can else 0)
    assert all(isinstance(layer, PackedLinear) == can for layer in packed)
    x = torch.randn(shape).to(dtype)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), plain(x), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not BFLOAT16, reason="this processor has no bfloat16 products")
def test_a_rounded_draft_stays_close_and_a_wide_step_is_not_rounded() -> None:
    plain, packed = model(torch.bfloat16), model(torch.bfloat16)
    pack_linears(packed, exact=False)
    exact, rounded = plain[1], packed[1]
    assert isinstance(exact, nn.Linear)
    for rows, most in ((4, 0.02), (MAX_INT8_ROWS + 1, 0.004)):
        x = torch.randn((1, rows, 160)).to(torch.bfloat16)
        with torch.inference_mode():
            expected, made = exact(x).float(), rounded(x).float()
        assert (made - expected).norm() < most * expected.norm()


def test_a_tied_embedding_is_unchanged_and_the_packed_weight_is_stored_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(64, 96)
            self.head = nn.Linear(96, 64, bias=False)
            self.head.weight = self.embed.weight

    tied = Tied()
    before = tied.embed.weight.detach().clone()
    pack_linears(tied)
    assert torch.equal(tied.embed.weight, before)
    assert tied.head.weight.device.type == "meta"
    assert tied.head.weight.shape == (64, 96)


@pytest.mark.parametrize("bias", [False, True])
def test_fused_layers_are_correct_in_any_order_of_calls(bias: bool) -> None:
    torch.manual_seed(0)

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(96, 128, bias=bias), nn.Linear(96, 160, bias=bias)

    packed = Gated()
    plain = copy.deepcopy(packed)
    assert pack_linears(packed) == 2
    assert packed.gate_proj.fused is packed.up_proj.fused
    with torch.inference_mode():
        for rows in (1, 9):
            x, y = torch.randn((1, rows, 96)), torch.randn((1, rows, 96))
            for name, input in (("gate_proj", x), ("up_proj", x), ("up_proj", y), ("gate_proj", y), ("gate_proj", x)):
                torch.testing.assert_close(getattr(packed, name)(input), getattr(plain, name)(input))


def test_layers_that_cannot_be_packed_are_unchanged() -> None:
    halves = model(torch.float64)
    assert pack_linears(halves) == 0
    assert type(halves[0]) is nn.Linear
