"""Linear layers for a handful of rows on a CPU: the same product, called in whichever way is fastest there.

Decoding multiplies a large matrix by one to eight rows, and CPU libraries are tuned for many more: in float32 two rows
can take twice as long as the same product transposed, and one row longer than two. In bfloat16 a matrix rounded to int8
is half as much to read; that is for drafts, whose numbers need not be exact. Which way wins differs between processors,
so it is measured once, when a model is loaded, on the model's own layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import linear

MOST_ROWS = 8
REPEATS = 5
PATIENCE = 0.9  # another way must be this much faster than the plain one to be taken
ROUNDED = 0  # the way by int8; any other is the number of rows to which the transposed product is padded

Ways = dict[int, int]  # rows -> way; absent: the plain one
Rounded = tuple[torch.Tensor, torch.Tensor]  # int8 [out, in] and the scale of each row


class ThinLinear(nn.Linear):
    """An nn.Linear without bias whose few-row products are made as `ways` says."""

    ways: Ways
    rounded: Rounded | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.shape[-2] if input.dim() == 3 and input.shape[0] == 1 else 0
        if (way := self.ways.get(rows)) is None:
            return linear(input, self.weight)
        if way == ROUNDED and self.rounded is not None:
            return torch.ops.aten._weight_int8pack_mm(input[0], *self.rounded)[None]
        return _transposed(input[0], self.weight, way)[None]


def thin(model: nn.Module, exact: bool = True) -> Ways:
    """Make the model's bias-free linear layers thin ones, if it lies on a CPU; returns what was measured to be best.

    Sums may be taken in another order then, as they are for another batch size. Where the model need not be `exact`,
    its matrices may be rounded to int8 too.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and module.bias is None]
    if not layers or layers[0].weight.device.type != "cpu":
        return {}
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # read from a mapped file it lies in small pages, a tenth slower
    rounds = not exact and layers[0].weight.dtype == torch.bfloat16
    rounded = [_round(layer.weight) if rounds else None for layer in layers]
    ways = _measure([layer.weight for layer in layers], rounded)
    for layer, int8 in zip(layers, rounded, strict=True):
        layer.__class__ = ThinLinear
        layer.ways = ways  # type: ignore[assignment]
        layer.rounded = int8 if ROUNDED in ways.values() else None  # type: ignore[assignment]
    return ways


def _round(weight: torch.Tensor) -> Rounded:
    rows = weight.detach().float()
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    return (rows / scale[:, None]).round().to(torch.int8), scale.to(weight.dtype)


def _transposed(x: torch.Tensor, weight: torch.Tensor, padded: int) -> torch.Tensor:
    rows = x.shape[0]
    if padded > rows:
        x = torch.cat([x, x.new_zeros((padded - rows, x.shape[1]))])
    return torch.mm(weight, x.t()).t()[:rows].contiguous()


@torch.inference_mode()
def _measure(weights: list[torch.Tensor], rounded: list[Rounded | None]) -> Ways:
    # Enough matrices that they do not stay in the processor's cache, as a whole model does not.
    sample = [*list(zip(weights, rounded, strict=True))[: 7 * 4], (weights[-1], rounded[-1])]
    plain: dict[int, float] = {}
    transposed: dict[int, float] = {}
    by_int8: dict[int, float] = {}
    for rows in range(1, MOST_ROWS + 1):
        inputs = {weight.shape[1]: torch.randn((rows, weight.shape[1])).to(weight.dtype) for weight, _ in sample}
        pairs = [(inputs[weight.shape[1]], weight) for weight, _ in sample]
        plain[rows] = _best(lambda: [linear(x, w) for x, w in pairs])  # noqa: B023
        transposed[rows] = _best(lambda: [_transposed(x, w, rows) for x, w in pairs])  # noqa: B023
        if rounded[0] is not None:
            products = [(inputs[weight.shape[1]], int8) for weight, int8 in sample if int8 is not None]
            by_int8[rows] = _best(lambda: [torch.ops.aten._weight_int8pack_mm(x, *int8) for x, int8 in products])  # noqa: B023
    ways: Ways = {}
    for rows in range(1, MOST_ROWS + 1):
        way = min((p for p in transposed if p >= rows), key=lambda p: transposed[p])
        seconds = transposed[way]
        if by_int8.get(rows, seconds) < seconds:
            way, seconds = ROUNDED, by_int8[rows]
        if seconds < PATIENCE * plain[rows]:
            ways[rows] = way
    return ways


def _best(call: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)
