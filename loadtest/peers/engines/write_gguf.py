"""Writes a transformers Llama folder as a GGUF file for llama.cpp: the same numbers in float32 or bfloat16, or in q8_0.

The demo target is published as Q4_1 and decoded to float32 when it is downloaded, which is what the other systems load;
the Q4_1 file itself would need less memory traffic. Supports one architecture, Llama, and one tokenizer, the demo
target's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from safetensors.torch import load_file

from edgedraft.runtime.device import DTYPES

KINDS = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(folder: Path, file: Path, dtype: str) -> None:
    """Writes the model in `folder` to `file`, matrices in `dtype`, vectors in float32 as llama.cpp requires.

    `dtype` is one of KINDS.
    """
    config = json.loads((folder / "config.json").read_text())
    kind, file_type = KINDS[dtype]
    writer = GGUFWriter(file, "llama")
    writer.add_name(folder.name)
    writer.add_file_type(file_type)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    _add_tokenizer(writer, folder, config)
    for name, tensor in load_file(folder / "model.safetensors").items():
        rounded = tensor.to(DTYPES.get(dtype, torch.float32)).float()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            rounded = _interleaved(rounded, config["head_dim"])
        data = rounded.numpy()
        if data.ndim == 1 or kind is GGMLQuantizationType.F32:
            writer.add_tensor(_name(name), data.astype(np.float32))
        else:
            writer.add_tensor(_name(name), quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, part = name.removesuffix(".weight").split(".", 3)
        return f"blk.{layer}.{PARTS[part]}.weight"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]


def _interleaved(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    # RoPE: llama.cpp rotates neighbouring dimensions of a head, transformers its two halves.
    return weight.view(-1, 2, head_dim // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()} | special
    ids = range(config["vocab_size"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([words.get(number, f"<unused {number}>") for number in ids])
    writer.add_token_types([TokenType.CONTROL if number in special else TokenType.NORMAL for number in ids])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
