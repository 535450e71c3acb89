"""Linear layers for a handful of rows on a CPU: the same product, called in whichever way is fastest there.

Decoding multiplies a large matrix by one to eight rows, and CPU libraries are tuned for many more: in float32 two rows
can take twice as long as the same product transposed, and one row longer than two. Which way wins differs between
processors, so it is measured once, when a model is loaded, on the model's own layers. Sums are taken in another order
then, as they are for another batch size; nothing else changes.
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

Ways = dict[int, int]  # rows -> rows to which they are padded for the transposed product; absent: the plain way


class ThinLinear(nn.Linear):
    """An nn.Linear without bias whose few-row products are transposed as `ways` says."""

    ways: Ways

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = input.shape[-2] if input.dim() == 3 and input.shape[0] == 1 else 0
        if (padded := self.ways.get(rows)) is None:
            return linear(input, self.weight)
        return _transposed(input[0], self.weight, padded)[None]


def thin(model: nn.Module) -> Ways:
    """Make the model's bias-free linear layers thin ones, if it lies on a CPU; returns what was measured to be best."""
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()  # read from a mapped file it lies in small pages, a tenth slower
    layers = [module for module in model.modules() if type(module) is nn.Linear and module.bias is None]
    if not layers or layers[0].weight.device.type != "cpu":
        return {}
    ways = _measure([layer.weight for layer in layers])
    for layer in layers:
        layer.__class__ = ThinLinear
        layer.ways = ways  # type: ignore[assignment]
    return ways


def _transposed(x: torch.Tensor, weight: torch.Tensor, padded: int) -> torch.Tensor:
    rows = x.shape[0]
    if padded > rows:
        x = torch.cat([x, x.new_zeros((padded - rows, x.shape[1]))])
    return torch.mm(weight, x.t()).t()[:rows].contiguous()


@torch.inference_mode()
def _measure(weights: list[torch.Tensor]) -> Ways:
    # Enough matrices that they do not stay in the processor's cache, as a whole model does not.
    sample = [*weights[: 7 * 4], weights[-1]]
    seconds: dict[int, float] = {}
    plain: dict[int, float] = {}
    for rows in range(1, MOST_ROWS + 1):
        inputs = {weight.shape[1]: torch.randn((rows, weight.shape[1])).to(weight.dtype) for weight in sample}
        plain[rows] = _best(lambda: [linear(inputs[w.shape[1]], w) for w in sample])  # noqa: B023
        seconds[rows] = _best(lambda: [_transposed(inputs[w.shape[1]], w, rows) for w in sample])  # noqa: B023
    ways: Ways = {}
    for rows in range(1, MOST_ROWS + 1):
        padded = min((p for p in seconds if p >= rows), key=lambda p: seconds[p])
        if seconds[padded] < PATIENCE * plain[rows]:
            ways[rows] = padded
    return ways


def _best(call: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)
