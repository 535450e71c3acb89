"""Linear layers of a model on a CPU, their weights laid out once in the order in which oneDNN reads them.

A plain torch layer hands its matrix over row by row and the library rearranges it in every product, or takes a kernel
for older processors: for the few rows of a decoding step that is most of the time. A draft, whose numbers need not be
exact, may also be rounded to int8, half as much to read. What wins differs between processors, so it is measured once,
when a model is loaded, on its own layers. Layers that multiply the same input, known by their names, are one product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, product

import torch
from torch import nn
from torch.nn.functional import linear

from edgedraft.runtime.device import has_bfloat16_products

DTYPES = (torch.float32, torch.bfloat16)
SAMPLED_ROWS = (1, 4, 16, 64)
FEW_ROWS = 8  # above that int8 is no less work
SAMPLE_BYTES = 1 << 28  # of weights: enough that they do not stay in the processor's cache, as a whole model does not
REPEATS = 5

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
Rounded = tuple[torch.Tensor, torch.Tensor]  # int8 [out, in] and the scale of each row


class _Product:
    """A weight laid out for oneDNN, and perhaps a rounded one for up to `few` rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, few: int) -> None:
        self._packed = _pack(weight)
        self._bias = bias
        self._rounded = _round(weight) if few and bias is None else None
        self._few = few

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        if self._rounded is not None and input.dim() == 3 and input.shape[0] == 1 and input.shape[1] <= self._few:
            return _by_int8(input[0], self._rounded)[None]
        return _by_packed(input, self._packed, self._bias)


class _Family:
    """Layers that are called one after the other with the same tensor: the first call makes everybody's product."""

    def __init__(self, product: _Product, sizes: Sequence[int]) -> None:
        self._product, self._sizes = product, list(sizes)
        self._input: torch.Tensor | None = None
        self._parts: Sequence[torch.Tensor] = ()

    def part(self, input: torch.Tensor, place: int) -> torch.Tensor:
        if input is not self._input:
            self._input, self._parts = input, self._product(input).split(self._sizes, dim=-1)
        part = self._parts[place]
        if place == len(self._sizes) - 1:
            self._input, self._parts = None, ()
        return part


class PackedLinear(nn.Linear):
    """An nn.Linear whose numbers lie in its family's product; its own weight is an empty one that tells the shape."""

    family: _Family
    place: int

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.family.part(input, self.place)


def pack_linears(model: nn.Module, exact: bool = True) -> int:
    """Pack the linear layers of a model that lies on a CPU, where that is faster; returns how many.

    Their weights cannot be read, trained or saved any more. Where the model need not be `exact`, they may be rounded.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _is_plain(module)]
    if not layers or not _can_pack(layers[0].weight):
        return 0
    weights = _sample([layer.weight.detach() for layer in layers])
    if not _packing_pays(weights):
        return 0
    rounds = not exact and layers[0].weight.dtype == torch.bfloat16
    few = _rows_that_int8_wins(weights) if rounds else 0
    for family in _families(model, layers):
        _join(family, few)
    return len(layers)


def _families(model: nn.Module, layers: Sequence[nn.Linear]) -> list[list[nn.Linear]]:
    """`layers`, those with a common input in one list."""
    left = dict.fromkeys(layers)
    families: list[list[nn.Linear]] = []
    for parent, names in product(model.modules(), SIBLINGS):
        children = [getattr(parent, name, None) for name in names]
        family = [child for child in children if isinstance(child, nn.Linear) and child in left]
        alike = {(child.in_features, child.bias is None, child.weight.dtype) for child in family}
        if len(family) == len(names) and len(alike) == 1:
            families.append(family)
            for child in family:
                del left[child]
    return [*families, *([layer] for layer in left)]


def _join(family: Sequence[nn.Linear], few: int) -> None:
    weights = [layer.weight.detach() for layer in family]
    biases = [layer.bias.detach() for layer in family if layer.bias is not None]
    joined = _Family(
        _Product(torch.cat(weights) if len(weights) > 1 else weights[0], torch.cat(biases) if biases else None, few),
        [len(weight) for weight in weights],
    )
    for place, layer in enumerate(family):
        layer.weight = nn.Parameter(layer.weight.detach().to("meta"), requires_grad=False)
        layer.__class__ = PackedLinear
        layer.family, layer.place = joined, place  # type: ignore[assignment]


def _is_plain(layer: nn.Linear) -> bool:
    """Whether it is a whole layer whose forward nobody has wrapped, as tensor parallelism does."""
    return type(layer.weight.data) is torch.Tensor and "forward" not in vars(layer)


def _can_pack(weight: torch.Tensor) -> bool:
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    if not known or weight.device.type != "cpu" or weight.dtype not in DTYPES:
        return False
    return weight.dtype != torch.bfloat16 or has_bfloat16_products(weight.device)


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
