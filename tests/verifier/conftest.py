"""A tiny random Llama and, once per run, the real demo target, both as packed models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM

from edgedraft.local.demo_model import ensure_demo_model
from edgedraft.runtime.packed_model import PackedModel
from tests.support.tiny_llama import tiny_llama
from tests.support.triton_interpreter import limit_static_forwards


@pytest.fixture(params=["gathered"])
def tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], PackedModel]:
    """Makes packed tiny models with a KV cache of so many tokens. Tests may ask for "paged" and "replayed" ones too."""
    if request.param == "gathered":
        return lambda kv_tokens: PackedModel(tiny_llama(), kv_tokens)
    if replayed := request.param == "replayed":
        limit_static_forwards(monkeypatch)
    return lambda kv_tokens: PackedModel(tiny_llama(), kv_tokens, attention="paged", cuda_graphs=replayed)


@pytest.fixture(scope="session")
def demo_target() -> PackedModel:
    model = AutoModelForCausalLM.from_pretrained(ensure_demo_model(), dtype=torch.float32, attn_implementation="sdpa")
    return PackedModel(model, 16384)
