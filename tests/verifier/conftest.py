"""A tiny random Llama and, once per run, the real demo target, both as packed models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel

TINY_VOCAB = 97


def tiny_llama(seed: int = 0, vocab_size: int = TINY_VOCAB) -> LlamaForCausalLM:
    """Two layers, grouped heads, weights large enough that its text is no mere repetition."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny() -> Callable[[int], PackedModel]:
    """Makes packed tiny models with a KV cache of so many tokens."""
    return lambda kv_tokens: PackedModel(tiny_llama(), kv_tokens)


@pytest.fixture(scope="session")
def demo_target() -> PackedModel:
    model = AutoModelForCausalLM.from_pretrained(ensure_demo_model(), dtype=torch.float32, attn_implementation="sdpa")
    return PackedModel(model, 16384)
