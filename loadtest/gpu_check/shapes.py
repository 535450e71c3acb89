"""Models of given shapes with random weights: Qwen3's, as their published configurations have them, and tiny ones.

Times depend on shapes and not on weights, but for power: a product of zeros draws less of it, and clocks rise. Hence
weights and cached keys are random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from edgedraft.runtime.packed_model import Attention, PackedModel

# Of weights, times the root of the hidden size. With more, rounding in bfloat16 grows over many layers of random
# weights until a packed forward no longer passes for the plain one.
SPREAD = 0.3


@dataclass(frozen=True)
class Shape:
    """A dense Qwen3. `tied`: the output head is the embeddings' matrix."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    head_dim: int = 128
    vocab: int = 151936
    tied: bool = False

    def config(self, layers: int = 0) -> Qwen3Config:
        """The configuration, with so many of its layers; 0 for all."""
        return Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=layers or self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=40960,
            tie_word_embeddings=self.tied,
            initializer_range=SPREAD / self.hidden**0.5,
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's products."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def step_weights(self) -> int:
        """Weights that a step reads: those of all products, the head among them."""
        return self.layers * self.layer_weights + self.vocab * self.hidden

    @property
    def weights(self) -> int:
        """Weights in memory, norms left out."""
        return self.step_weights + (0 if self.tied else self.vocab * self.hidden)

    @property
    def kv_values(self) -> int:
        """Numbers in the KV cache per token and layer."""
        return 2 * self.kv_heads * self.head_dim


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen3-0.6b", 28, 1024, 16, 8, 3072, tied=True),
        Shape("qwen3-1.7b", 28, 2048, 16, 8, 6144, tied=True),
        Shape("qwen3-14b", 40, 5120, 40, 8, 17408),
        Shape("qwen3-32b", 64, 5120, 64, 8, 25600),
    )
}
TINY_TARGET = Shape("tiny-target", 6, 64, 4, 2, 128, head_dim=16, vocab=512)
TINY_DRAFT = Shape("tiny-draft", 1, 32, 4, 2, 64, head_dim=8, vocab=512, tied=True)


def random_model(shape: Shape, dtype: torch.dtype, device: torch.device, layers: int = 0) -> PreTrainedModel:
    """Made on the device itself, so that nothing of this size passes through the processor's memory."""
    with torch.device(device):
        config = shape.config(layers)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()


def random_packed(
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    kv_tokens: int,
    layers: int = 0,
    attention: Attention = "gathered",
    cuda_graphs: bool = False,
) -> PackedModel:
    """The same as a packed model, whose KV cache is filled with random numbers."""
    model = random_model(shape, dtype, device, layers)
    packed = PackedModel(model, kv_tokens, attention=attention, cuda_graphs=cuda_graphs)
    example = torch.empty((1, shape.kv_heads, shape.head_dim), dtype=dtype, device=device)
    with torch.inference_mode():
        for layer in range(packed.block_manager.num_layers):
            for cache in packed.block_manager.layer_kv(layer, example, example):
                cache.normal_()
    return packed
