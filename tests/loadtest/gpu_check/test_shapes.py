"""Shapes are those of the published models, and random models have them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from loadtest.gpu_check.shapes import SHAPES, TINY_TARGET, random_packed

PUBLISHED = {"qwen3-0.6b": 0.6e9, "qwen3-1.7b": 1.7e9, "qwen3-14b": 14.8e9, "qwen3-32b": 32.8e9}  # the model cards'


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_as_many_weights_as_its_model(name: str) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    assert shape.weights == pytest.approx(PUBLISHED[name], rel=0.02)
    assert shape.weights == pytest.approx(sum(p.numel() for p in model.parameters()), rel=1e-3)


def test_a_random_model_has_the_layers_asked_for_and_a_filled_cache() -> None:
    packed = random_packed(TINY_TARGET, torch.bfloat16, torch.device("cpu"), 64, layers=2)
    manager = packed.block_manager
    assert manager.num_layers == 2
    example = torch.empty((1, TINY_TARGET.kv_heads, TINY_TARGET.head_dim))
    assert all(cache.float().std() > 0.5 for cache in manager.layer_kv(1, example, example))
    assert manager.num_free_tokens == manager.num_tokens
