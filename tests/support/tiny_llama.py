"""A tiny random Llama for tests, and the text that it writes with plain forwards, without cache or draft."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgedraft.sampling.sampler import sample_rows
from edgedraft.wire import Sampling

VOCAB = 97
CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,  # large enough that the text is neither mere repetition nor nearly uniform
}


def tiny_llama(seed: int = 0, **config: Any) -> LlamaForCausalLM:
    """A new float32 model with weights from `seed`. `config` replaces or extends CONFIG (LlamaConfig's arguments)."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**CONFIG | config)).eval()


@lru_cache
def plain_tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """A shared model to be called as it is. Packing changes a model, so it needs one of its own."""
    return tiny_llama(seed)


def greedy_text(prompt: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """`count` tokens by transformers' greedy generation."""
    model: Any = plain_tiny_llama(seed)
    ids = torch.tensor([list(prompt)])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return output[0, len(prompt) :].tolist()


@torch.inference_mode()
def sampled_text(prompt: Sequence[int], count: int, sampling: Sampling, seed: int = 0) -> list[int]:
    """`count` tokens as invariant 1 defines them, with one plain forward over the complete text per token."""
    model, text = plain_tiny_llama(seed), list(prompt)
    for index in range(count):
        text += sample_rows(model(torch.tensor([text])).logits[0, -1:], sampling, [index])
    return text[len(prompt) :]
