"""Packed linear layers for models on a CPU: weights stored once in oneDNN's own layout, or rounded to int8.

A plain torch layer passes its row-major weight to oneDNN, which reorders it in every product or takes a kernel for
older processors. With the few rows of a decoding step, most of the time is spent on that. A draft model, whose logits
need not be exact, may also be rounded to int8, which halves the bytes to read. Which variant is faster depends on the
processor, so it is measured on the model's own layers when it is loaded. Layers with a common input, recognised by
their names, are fused into one product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, product

import torch
from torch import nn
from torch.nn.functional import linear

from edgedraft.runtime.device import has_bfloat16_matmul

DTYPES = (torch.float32, torch.bfloat16)
SAMPLED_ROWS = (1, 4, 16, 64)
MAX_INT8_ROWS = 8  # with more rows int8 takes no less time
SAMPLE_BYTES = 1 << 28  # weights to measure on: more than the processor's cache holds, like a complete model
REPEATS = 5

FUSED_LAYERS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
Int8Weight = tuple[torch.Tensor, torch.Tensor]  # int8 [out, in] and the scale of each row


class _PackedWeight:
    """A weight in oneDNN's layout and, for up to `int8_rows` rows, one rounded to int8."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, int8_rows: int) -> None:
        self._packed = _pack(weight)
        self._bias = bias
        self._int8 = _round_to_int8(weight) if int8_rows and bias is None else None
        self._int8_rows = int8_rows

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        if self._int8 is not None and input.dim() == 3 and input.shape[0] == 1 and input.shape[1] <= self._int8_rows:
            return _int8_linear(input[0], self._int8)[None]
        return _packed_linear(input, self._packed, self._bias)


class _FusedLayers:
    """Layers that are called in turn with the same tensor: the first call computes the product of all of them."""

    def __init__(self, weight: _PackedWeight, sizes: Sequence[int]) -> None:
        self._weight, self._sizes = weight, list(sizes)
        self._input: torch.Tensor | None = None
        self._outputs: Sequence[torch.Tensor] = ()

    def output(self, input: torch.Tensor, index: int) -> torch.Tensor:
        """The output of layer `index`."""
        if input is not self._input:
            self._input, self._outputs = input, self._weight(input).split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._input, self._outputs = None, ()
        return output


class PackedLinear(nn.Linear):
    """An nn.Linear whose weight is in its fused layers; its own weight is on the meta device, for the shape only."""

    fused: _FusedLayers
    index: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.fused.output(input, self.index)


def pack_linears(model: nn.Module, exact: bool = True) -> int:
    """Pack the linear layers of a model on a CPU where that is faster. Returns how many were packed.

    Their weights can no longer be read, trained or saved. Where the model need not be `exact`, they may be rounded.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _is_unmodified(module)]
    if not layers or not _can_pack(layers[0].weight):
        return 0
    weights = _sample([layer.weight.detach() for layer in layers])
    if not _is_packing_faster(weights):
        return 0
    may_round = not exact and layers[0].weight.dtype == torch.bfloat16
    int8_rows = _max_int8_rows(weights) if may_round else 0
    for siblings in _group_siblings(model, layers):
        _fuse(siblings, int8_rows)
    return len(layers)


def _group_siblings(model: nn.Module, layers: Sequence[nn.Linear]) -> list[list[nn.Linear]]:
    """`layers`, those with a common input in one list."""
    remaining = dict.fromkeys(layers)
    groups: list[list[nn.Linear]] = []
    for parent, names in product(model.modules(), FUSED_LAYERS):
        children = [getattr(parent, name, None) for name in names]
        siblings = [child for child in children if isinstance(child, nn.Linear) and child in remaining]
        kinds = {(child.in_features, child.bias is None, child.weight.dtype) for child in siblings}
        if len(siblings) == len(names) and len(kinds) == 1:
            groups.append(siblings)
            for child in siblings:
                del remaining[child]
    return [*groups, *([layer] for layer in remaining)]


def _fuse(layers: Sequence[nn.Linear], int8_rows: int) -> None:
    """Turn `layers` into PackedLinear layers over one packed weight."""
    weights = [layer.weight.detach() for layer in layers]
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    weight, bias = torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases) if biases else None
    fused = _FusedLayers(_PackedWeight(weight, bias, int8_rows), [len(weight) for weight in weights])
    for index, layer in enumerate(layers):
        layer.weight = nn.Parameter(layer.weight.detach().to("meta"), requires_grad=False)
        layer.__class__ = PackedLinear
        layer.fused, layer.index = fused, index  # type: ignore[assignment]


def _is_unmodified(layer: nn.Linear) -> bool:
    """Whether it holds the complete weight and its forward is not wrapped; tensor parallelism changes both."""
    return type(layer.weight.data) is torch.Tensor and "forward" not in vars(layer)


def _can_pack(weight: torch.Tensor) -> bool:
    available = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    if not available or weight.device.type != "cpu" or weight.dtype not in DTYPES:
        return False
    return weight.dtype != torch.bfloat16 or has_bfloat16_matmul(weight.device)


def _sample(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The first weights that together reach SAMPLE_BYTES."""
    until = next((i for i, size in enumerate(accumulate(w.nbytes for w in weights), 1) if size >= SAMPLE_BYTES), None)
    return list(weights[:until])


def _pack(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())


def _packed_linear(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _round_to_int8(weight: torch.Tensor) -> Int8Weight:
    rows = weight.float()
    scale = rows.abs().amax(dim=1).clamp_min(1e-12) / 127
    return (rows / scale[:, None]).round().to(torch.int8), scale.to(weight.dtype)


def _int8_linear(x: torch.Tensor, weight: Int8Weight) -> torch.Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, *weight)


@torch.inference_mode()
def _is_packing_faster(weights: Sequence[torch.Tensor]) -> bool:
    """Whether packed products are faster in the geometric mean over SAMPLED_ROWS."""
    packed = [_pack(weight) for weight in weights]
    speedup = 1.0
    for rows in SAMPLED_ROWS:
        x = _inputs(weights, rows)
        plain = _min_seconds(lambda: [linear(x[w.shape[1]], w) for w in weights])  # noqa: B023
        speedup *= plain / _min_seconds(
            lambda: [_packed_linear(x[w.shape[1]], p, None) for w, p in zip(weights, packed, strict=True)]  # noqa: B023
        )
    return speedup > 1.0


@torch.inference_mode()
def _max_int8_rows(weights: Sequence[torch.Tensor]) -> int:
    """The largest number of rows for which the int8 product is faster, 0 if there is none."""
    both = [(_pack(weight), _round_to_int8(weight)) for weight in weights]
    for rows in range(MAX_INT8_ROWS, 0, -1):
        x = _inputs(weights, rows)
        int8 = _min_seconds(lambda: [_int8_linear(x[r[0].shape[1]], r) for _, r in both])  # noqa: B023
        if int8 < _min_seconds(lambda: [_packed_linear(x[r[0].shape[1]], p, None) for p, r in both]):  # noqa: B023
            return rows
    return 0


def _inputs(weights: Sequence[torch.Tensor], rows: int) -> dict[int, torch.Tensor]:
    """Random input [rows, in] by input size."""
    return {weight.shape[1]: torch.randn((rows, weight.shape[1])).to(weight.dtype) for weight in weights}


def _min_seconds(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
