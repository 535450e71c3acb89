"""Reads a loaded draft model's weights for its ONNX graph: decoders of the Llama family (Llama, Mistral, Qwen2, Qwen3).

What is in the model decides, not its name: every weight must be one that the graph has a place for. Whether the graph
then computes the same is checked on its logits (export.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from edge_agent.drafters.pytorch.draft_model import quantise
from edge_agent.onnx.graph import DraftWeights, Layer, Matrix

ROPE_TYPES = ("default", "linear", "llama3")  # those whose frequencies do not depend on the length of the text


class UnsupportedDraft(ValueError):
    """The draft model has a structure that the ONNX graph cannot express; the message says which."""


def read_weights(model: PreTrainedModel) -> DraftWeights:
    """All weights, matrices quantised to int8 by row. Raises UnsupportedDraft."""
    config: Any = model.config.get_text_config()
    state = {name.removeprefix("model."): tensor.detach().float() for name, tensor in model.state_dict().items()}
    rope: Any = getattr(model.get_decoder(), "rotary_emb", None)
    if rope is None or rope.rope_type not in ROPE_TYPES or rope.attention_scaling != 1 or config.hidden_act != "silu":
        raise UnsupportedDraft(f"{type(model).__name__} is not of the Llama family")
    head_dim = 2 * len(rope.inv_freq)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    try:
        layers = [_read_layer(state, f"layers.{i}.", heads, head_dim) for i in range(config.num_hidden_layers)]
        embeddings, norm = _matrix(state.pop("embed_tokens.weight")), state.pop("norm.weight").numpy()
        head = _matrix(state.pop("lm_head.weight"), state.pop("lm_head.bias", None))
    except KeyError as error:
        raise UnsupportedDraft(f"{type(model).__name__} has no weight {error}") from error
    if state:
        raise UnsupportedDraft(
            f"{type(model).__name__} has weights of another kind of model: {', '.join(sorted(state))}"
        )
    frequencies = rope.inv_freq.detach().float().cpu().numpy()
    return DraftWeights(
        embeddings, layers, norm, head, heads, kv_heads, head_dim, float(config.rms_norm_eps), frequencies
    )


def _read_layer(state: dict[str, torch.Tensor], prefix: str, heads: int, head_dim: int) -> Layer:
    def take(name: str) -> torch.Tensor:
        return state.pop(f"{prefix}{name}.weight")

    def take_joined(*names: str) -> Matrix:
        """Layers of one input as one matrix."""
        weights = [take(name) for name in names]
        biases = [
            state.pop(f"{prefix}{name}.bias", torch.zeros(len(w))) for name, w in zip(names, weights, strict=True)
        ]
        bias = torch.cat(biases)
        return _matrix(torch.cat(weights), bias if bias.any() else None)

    def take_norm(name: str) -> np.ndarray | None:
        norm = state.pop(f"{prefix}{name}.weight", None)
        return None if norm is None else norm.numpy()

    qkv = take_joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    query_norm, factor = take_norm("self_attn.q_norm"), head_dim**-0.5
    if query_norm is None:
        qkv.scales[: heads * head_dim] *= factor
        if qkv.bias is not None:
            qkv.bias[: heads * head_dim] *= factor
    else:
        query_norm = query_norm * np.float32(factor)
    return Layer(
        take("input_layernorm").numpy(),
        qkv,
        take_joined("self_attn.o_proj"),
        take("post_attention_layernorm").numpy(),
        take_joined("mlp.gate_proj", "mlp.up_proj"),
        take_joined("mlp.down_proj"),
        query_norm,
        take_norm("self_attn.k_norm"),
    )


def _matrix(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Matrix:
    values, scales = quantise(weight)
    return Matrix(values.numpy(), scales.float().numpy(), None if bias is None else bias.numpy().copy())
