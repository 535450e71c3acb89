"""Linear layers of a model on a CPU, their weights laid out once in the order in which oneDNN reads them.

A plain torch layer hands its matrix over row by row and the library rearranges it in every product, or takes a kernel
for older processors: for the few rows of a decoding step that is most of the time. A draft, whose numbers need not be
exact, may also be rounded to int8, half as much to read. What wins differs between processors, so it is measured once,
when a model is loaded, on the model's own layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import nn
from torch.nn.functional import linear

DTYPES = (torch.float32, torch.bfloat16)
SAMPLED_ROWS = (1, 4, 16, 64)
FEW_ROWS = 8  # above that int8 is no less work
SAMPLE_BYTES = 1 << 28  # of weights: enough that they do not stay in the processor's cache, as a whole model does not
REPEATS = 5

Rounded = tuple[torch.Tensor, torch.Tensor]  # int8 [out, in] and the scale of each row


class PackedLinear(nn.Linear):
    """An nn.Linear whose numbers lie in `packed`; its own weight is an empty one that only tells the shape.

    Up to `few` rows go through the `rounded` weight, if there is one.
    """

    packed: torch.Tensor
    rounded: Rounded | None
    few: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.rounded is not None and input.dim() == 3 and input.shape[0] == 1 and input.shape[1] <= self.few:
            return _by_int8(input[0], self.rounded)[None]
        return _by_packed(input, self.packed, self.bias)


def pack_linears(model: nn.Module, exact: bool = True) -> int:
    """Pack the linear layers of a model that lies on a CPU, where that is faster; returns how many.

    Their weights cannot be read, trained or saved any more. Where the model need not be `exact`, they may be rounded.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    if not layers or not _can_pack(layers[0].weight):
        return 0
    weights = _sample([layer.weight.detach() for layer in layers])
    if not _packing_pays(weights):
        return 0
    rounds = not exact and layers[0].weight.dtype == torch.bfloat16
    few = _rows_that_int8_wins(weights) if rounds else 0
    for layer in layers:
        weight = layer.weight.detach()
        layer.__class__ = PackedLinear
        layer.packed = _pack(weight)
        layer.rounded = _round(weight) if few and layer.bias is None else None  # type: ignore[assignment]
        layer.few = few  # type: ignore[assignment]
        layer.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
    return len(layers)


def _can_pack(weight: torch.Tensor) -> bool:
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return known and type(weight.data) is torch.Tensor and weight.device.type == "cpu" and weight.dtype in DTYPES


def _sample(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    until = next((i for i, size in enumerate(accumulate(w.nbytes for w in weights), 1) if size >= SAMPLE_BYTES), None)
    return list(weights[:until])


def _pack(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _by_packed(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _round(weight: torch.Tensor) -> Rounded:
    rows = weight.float()
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    return (rows / scale[:, None]).round().to(torch.int8), scale.to(weight.dtype)


def _by_int8(x: torch.Tensor, rounded: Rounded) -> torch.Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, *rounded)


@torch.inference_mode()
def _packing_pays(weights: Sequence[torch.Tensor]) -> bool:
    packed = [_pack(weight) for weight in weights]
    gain = 1.0
    for rows in SAMPLED_ROWS:
        x = _inputs(weights, rows)
        plainly = _best(lambda: [linear(x[w.shape[1]], w) for w in weights])  # noqa: B023
        gain *= plainly / _best(
            lambda: [_by_packed(x[w.shape[1]], p, None) for w, p in zip(weights, packed, strict=True)]  # noqa: B023
        )
    return gain > 1.0


@torch.inference_mode()
def _rows_that_int8_wins(weights: Sequence[torch.Tensor]) -> int:
    """The most rows at which the int8 product is the faster one."""
    both = [(_pack(weight), _round(weight)) for weight in weights]
    for rows in range(FEW_ROWS, 0, -1):
        x = _inputs(weights, rows)
        by_int8 = _best(lambda: [_by_int8(x[r[0].shape[1]], r) for _, r in both])  # noqa: B023
        if by_int8 < _best(lambda: [_by_packed(x[r[0].shape[1]], p, None) for p, r in both]):  # noqa: B023
            return rows
    return 0


def _inputs(weights: Sequence[torch.Tensor], rows: int) -> dict[int, torch.Tensor]:
    return {weight.shape[1]: torch.randn((rows, weight.shape[1])).to(weight.dtype) for weight in weights}


def _best(call: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)
