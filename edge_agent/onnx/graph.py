"""Builds the ONNX graph of a draft model from its weights: a decoder of the Llama family with an explicit mask.

The contract of inputs and outputs is in contract.py. The graph is written operator by operator: no tracer and no
exporter decides its shape, and weights are stored in the form in which a kernel reads them.

Two variants:
- int8: weights as int8 with a scale per output channel, as a distilled draft stores them. An activation is two numbers
  of 8 bits, a coarse one and what its rounding left, in two rows of one integer product. The logits are those of float
  activations, and a row's do not depend on the other rows of the run. A product with few rows takes the time of reading
  the weights, so the second number costs next to nothing there. MatMulInteger has kernels for CPUs and WebAssembly.
- fp16: weights, activations and the KV cache in float16, the norms in float32. For GPUs and NPUs.

The embeddings are int8 with a scale per row in both. Only operators of opset 17 are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.onnx.contract import KEY, LOGIT_ROWS, LOGITS, MASK, PAST_KEY, PAST_VALUE, POSITIONS, TOKENS, VALUE

OPSET = 17
IR_VERSION = 8  # of opset 17; newer ones are refused by older runtimes
FINE_STEPS = 254  # of the second number of an activation in one step of the first
ACTIVATION_ZERO = 128  # activations are uint8 around it: WebAssembly has no quick kernel for signed ones


@dataclass(frozen=True)
class Matrix:
    """A linear layer: int8 values [out, in], float32 scales [out], and a bias [out] or None."""

    values: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None = None

    def dequantised(self) -> np.ndarray:
        """The float32 matrix [out, in]."""
        return self.values.astype(np.float32) * self.scales[:, None]


@dataclass(frozen=True)
class Layer:
    """One decoder layer. Vectors are float32; `query_norm` and `key_norm` [head_dim] are Qwen3's."""

    attention_norm: np.ndarray
    qkv: Matrix
    output: Matrix
    mlp_norm: np.ndarray
    gate_up: Matrix
    down: Matrix
    query_norm: np.ndarray | None = None
    key_norm: np.ndarray | None = None


@dataclass(frozen=True)
class DraftWeights:
    """All weights and sizes of a draft model.

    `inverse_frequencies` [head_dim / 2] are those of the rotary embedding. The queries' rows of each `qkv` include
    attention's factor head_dim ** -0.5.
    """

    embeddings: Matrix
    layers: Sequence[Layer]
    norm: np.ndarray
    head: Matrix
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    inverse_frequencies: np.ndarray


def build_graph(weights: DraftWeights, variant: str) -> onnx.ModelProto:
    """The graph of one variant, "int8" or "fp16"."""
    return _GraphBuilder(weights, half=variant == "fp16").build()


class _GraphBuilder:
    """Appends nodes in order; every method returns the names of tensors."""

    def __init__(self, weights: DraftWeights, half: bool) -> None:
        self._weights = weights
        self._half = half
        self._float = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._numbers: Iterator[int] = count()

    def build(self) -> onnx.ModelProto:
        w = self._weights
        hidden = self._embed()
        cos, sin = self._rotations()
        self._op("Slice", self._op("Shape", PAST_KEY.format(0)), self._ints(1), self._ints(2), out="num_past")
        self._op("Slice", self._op("Shape", MASK), self._ints(1), self._ints(2), out="num_keys")
        mask = self._op("Concat", *[MASK] * (w.heads // w.kv_heads), axis=0)
        mask = self._cast(mask, self._float)
        for i, layer in enumerate(w.layers):
            hidden = self._layer(i, layer, hidden, cos, sin, mask)
        rows = self._op("Gather", hidden, LOGIT_ROWS, axis=0)
        logits = self._linear(self._quantised(self._norm(rows, w.norm)), w.head)
        self._op("Identity", self._cast(logits, TensorProto.FLOAT), out=LOGITS)
        return self._model()

    def _embed(self) -> str:
        """The embeddings of the tokens, float [rows, hidden]."""
        w = self._weights.embeddings
        values = self._op("Gather", self._constant("embeddings", w.values), TOKENS, axis=0)
        stored = self._constant("embeddings.scales", self._number(w.scales[:, None]))
        scales = self._op("Gather", stored, TOKENS, axis=0)
        return self._op("Mul", self._cast(values, self._float), scales)

    def _rotations(self) -> tuple[str, str]:
        """Cosine and sine of the rotary embedding, float [rows, 1, head_dim]; the sine's first half is negated."""
        positions = self._reshape(self._cast(POSITIONS, TensorProto.FLOAT), (-1, 1, 1))
        angles = self._op("Mul", positions, self._constant("frequencies", self._weights.inverse_frequencies))
        cos, sin = self._op("Cos", angles), self._op("Sin", angles)
        both = self._op("Concat", cos, cos, axis=-1), self._op("Concat", self._op("Neg", sin), sin, axis=-1)
        return self._cast(both[0], self._float), self._cast(both[1], self._float)

    def _layer(self, i: int, layer: Layer, hidden: str, cos: str, sin: str, mask: str) -> str:
        attended = self._attention(i, layer, self._quantised(self._norm(hidden, layer.attention_norm)), cos, sin, mask)
        hidden = self._op("Add", hidden, self._linear(self._quantised(attended), layer.output))
        size = layer.down.values.shape[1]
        gate_up = self._linear(self._quantised(self._norm(hidden, layer.mlp_norm)), layer.gate_up)
        gate, up = self._split(gate_up, (size, size), axis=1)
        activated = self._op("Mul", self._op("Mul", gate, self._op("Sigmoid", gate)), up)
        return self._op("Add", hidden, self._linear(self._quantised(activated), layer.down))

    def _attention(self, i: int, layer: Layer, normed: tuple[str, ...], cos: str, sin: str, mask: str) -> str:
        """Attention of all rows to the past and to each other, float [rows, heads * head_dim].

        The query heads that share a key head are rows of one product: [kv_heads, group * rows, keys].
        """
        w = self._weights
        kv, group, dim = w.kv_heads, w.heads // w.kv_heads, w.head_dim
        qkv = self._reshape(self._linear(normed, layer.qkv), (-1, w.heads + 2 * kv, dim))
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key, value = self._split(qkv, (w.heads, kv, kv), axis=1)
            query = self._rotate(self._norm(query, layer.query_norm), cos, sin)
            key = self._rotate(self._norm(key, layer.key_norm), cos, sin)
        else:
            both, value = self._split(qkv, (w.heads + kv, kv), axis=1)
            query, key = self._split(self._rotate(both, cos, sin), (w.heads, kv), axis=1)
        key = self._op("Transpose", key, perm=[1, 0, 2], out=KEY.format(i))
        value = self._op("Transpose", value, perm=[1, 0, 2], out=VALUE.format(i))
        query = self._reshape(self._op("Transpose", query, perm=[1, 0, 2]), (kv, -1, dim))
        past_key, past_value = PAST_KEY.format(i), PAST_VALUE.format(i)
        # Past and new rows are multiplied apart, since joining their keys would copy the past.
        scores = self._op(
            "Concat",
            *(self._op("MatMul", query, self._op("Transpose", keys, perm=[0, 2, 1])) for keys in (past_key, key)),
            axis=-1,
        )
        weights = self._op("Softmax", self._op("Add", scores, mask), axis=-1)
        past = self._op("Slice", weights, self._ints(0), "num_past", self._ints(2))
        new = self._op("Slice", weights, "num_past", "num_keys", self._ints(2))
        attended = self._op("Add", self._op("MatMul", past, past_value), self._op("MatMul", new, value))
        attended = self._reshape(attended, (kv * group, -1, dim))
        return self._reshape(self._op("Transpose", attended, perm=[1, 0, 2]), (-1, w.heads * dim))

    def _rotate(self, x: str, cos: str, sin: str) -> str:
        half = self._weights.head_dim // 2
        swapped = self._constant("swapped", np.r_[half : 2 * half, 0:half].astype(np.int64))
        turned = self._op("Mul", self._op("Gather", x, swapped, axis=2), sin)
        return self._op("Add", self._op("Mul", x, cos), turned)

    def _norm(self, x: str, weight: np.ndarray) -> str:
        """RMS norm in float32: squares of activations overflow float16."""
        wide = self._cast(x, TensorProto.FLOAT)
        squares = self._op("Pow", wide, self._float_constant("two", 2))
        mean = self._op("ReduceMean", squares, axes=[-1], keepdims=1)
        root = self._op("Sqrt", self._op("Add", mean, self._float_constant("epsilon", self._weights.epsilon)))
        scaled = self._op("Mul", self._op("Div", wide, root), self._new_constant(weight.astype(np.float32)))
        return self._cast(scaled, self._float)

    def _quantised(self, x: str) -> tuple[str, ...]:
        """A linear layer's input: (uint8 values [2 * rows, size], float scales [2 * rows, 1]), or the float16 rows."""
        if self._half:
            return (x,)
        largest = self._op("ReduceMax", self._op("Abs", x), axes=[-1], keepdims=1)
        scale = self._op("Mul", largest, self._float_constant("coarse_step", 1 / 127))
        scale = self._op("Max", scale, self._float_constant("smallest_scale", 1e-20))
        scaled = self._op("Div", x, scale)
        coarse = self._op("Round", scaled)
        rest = self._op("Mul", self._op("Sub", scaled, coarse), self._float_constant("fine_steps", FINE_STEPS))
        values = self._op("Concat", coarse, self._op("Round", rest), axis=0)
        values = self._cast(self._op("Add", values, self._float_constant("zero", ACTIVATION_ZERO)), TensorProto.UINT8)
        fine_scale = self._op("Mul", scale, self._float_constant("fine_step", 1 / FINE_STEPS))
        return values, self._op("Concat", scale, fine_scale, axis=0)

    def _linear(self, x: tuple[str, ...], matrix: Matrix) -> str:
        """x @ matrix.T + bias, float [rows, out]; `x` is what _quantised returned."""
        if self._half:
            product = self._op("MatMul", x[0], self._new_constant(matrix.dequantised().T.astype(np.float16)))
        else:
            zero = self._constant("activation_zero", np.array(ACTIVATION_ZERO, np.uint8))
            sums = self._op("MatMulInteger", x[0], self._new_constant(matrix.values.T), zero)
            parts = self._op("Mul", self._cast(sums, TensorProto.FLOAT), x[1])
            joined = self._op("ReduceSum", self._reshape(parts, (2, -1, len(matrix.values))), self._ints(0), keepdims=0)
            product = self._op("Mul", joined, self._new_constant(matrix.scales))
        if matrix.bias is None:
            return product
        return self._op("Add", product, self._new_constant(self._number(matrix.bias)))

    def _op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"t{next(self._numbers)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name=f"{kind}.{name}", **attributes))
        return name

    def _split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        names = [f"t{next(self._numbers)}" for _ in sizes]
        self._nodes.append(
            helper.make_node("Split", [x, self._ints(*sizes)], names, name=f"Split.{names[0]}", axis=axis)
        )
        return names

    def _cast(self, x: str, kind: int) -> str:
        return self._op("Cast", x, to=kind)

    def _reshape(self, x: str, shape: Sequence[int]) -> str:
        return self._op("Reshape", x, self._ints(*shape))

    def _ints(self, *values: int) -> str:
        return self._constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def _number(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float16 if self._half else np.float32)

    def _constant(self, name: str, values: np.ndarray) -> str:
        """A named constant, which is stored once."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _float_constant(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, np.float32))

    def _new_constant(self, values: np.ndarray) -> str:
        return self._constant(f"w{next(self._numbers)}", values)

    def _model(self) -> onnx.ModelProto:
        w = self._weights
        past, new = (w.kv_heads, "past", w.head_dim), (w.kv_heads, "rows", w.head_dim)
        layers = range(len(w.layers))
        inputs = [
            _tensor(TOKENS, TensorProto.INT64, ("rows",)),
            _tensor(POSITIONS, TensorProto.INT64, ("rows",)),
            _tensor(MASK, TensorProto.FLOAT, ("rows", "keys")),
            _tensor(LOGIT_ROWS, TensorProto.INT64, ("logit_rows",)),
            *(_tensor(name.format(i), self._float, past) for i in layers for name in (PAST_KEY, PAST_VALUE)),
        ]
        outputs = [
            _tensor(LOGITS, TensorProto.FLOAT, ("logit_rows", len(w.head.values))),
            *(_tensor(name.format(i), self._float, new) for i in layers for name in (KEY, VALUE)),
        ]
        graph = helper.make_graph(self._nodes, "draft", inputs, outputs, list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _tensor(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
