"""The target and draft model that are compared between devices: given ones, or random ones of small shapes.

Models are made anew for each device and number format, since packing changes a model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from edge_agent.drafters.pytorch.draft_model import load_draft, move_to
from edgedraft.runtime.blocks import BLOCK_SIZE
from edgedraft.runtime.packed_model import PackedModel
from loadtest.gpu_check.shapes import Shape, random_model
from loadtest.workloads import mixed_prompts

CPU = torch.device("cpu")
KV_TOKENS = 4096

LoadTarget = Callable[[torch.dtype], PreTrainedModel]  # on the CPU
LoadDraft = Callable[[torch.dtype, torch.device], tuple[PreTrainedModel, torch.Tensor | None]]


@dataclass(frozen=True)
class Pair:
    """`tokens` of output are compared for each prompt. `drafts` tells whether the draft model knows the target's texts.

    `load_draft` also returns the token ids of its logits' columns, None where they are all of them.
    """

    name: str
    vocab: int
    prompts: list[list[int]]
    tokens: int
    load_target: LoadTarget
    load_draft: LoadDraft
    drafts: bool

    def target(self, dtype: torch.dtype, device: torch.device, kv_tokens: int = KV_TOKENS) -> PackedModel:
        return PackedModel(move_to(self.load_target(dtype), device), kv_tokens)

    @property
    def crowded_tokens(self) -> int:
        """A KV cache for all prompts but not for all texts, so that sessions lose their blocks."""
        longest = max(map(len, self.prompts)) + self.tokens + 2 * BLOCK_SIZE
        return max(longest, sum(len(prompt) + BLOCK_SIZE for prompt in self.prompts))


TARGET = Shape("random", 4, 256, 8, 2, 512, head_dim=32, vocab=4096)
DRAFT = Shape("random draft", 1, 64, 4, 2, 128, head_dim=16, vocab=4096)
TINY_TARGET = Shape("tiny random", 2, 48, 6, 2, 96, head_dim=8, vocab=211)
TINY_DRAFT = Shape("tiny random draft", 1, 24, 2, 1, 48, head_dim=8, vocab=211)
SPREAD = 0.1  # of weights, large enough that texts are neither mere repetition nor nearly uniform
SIZES = (8, 48), (4, 24)  # sessions and output tokens, and those of tiny ones


def random_pair(tiny: bool) -> Pair:
    """The same weights everywhere: they are drawn once, on the CPU."""
    shape, draft_shape = (TINY_TARGET, TINY_DRAFT) if tiny else (TARGET, DRAFT)
    sessions, tokens = SIZES[tiny]
    target, draft = _spread_model(shape), _spread_model(draft_shape)

    def copy_of(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        return copy.deepcopy(model).to(dtype)  # type: ignore[call-overload]

    return Pair(
        shape.name,
        shape.vocab,
        [Random(i).choices(range(shape.vocab), k=7 + 9 * i) for i in range(sessions)],
        tokens,
        lambda dtype: copy_of(target, dtype),
        lambda dtype, device: (move_to(copy_of(draft, dtype), device), None),
        drafts=False,
    )


def given_pair(target: Path, draft: Path | None, tiny: bool) -> Pair:
    """Models in folders, on prompts of this repository's workload. Without a draft model its place takes a random one.

    Raises OSError or ValueError where they cannot be loaded.
    """
    tokenizer = AutoTokenizer.from_pretrained(target)
    sessions, tokens = SIZES[tiny]
    vocab = AutoConfig.from_pretrained(target).get_text_config().vocab_size
    random_draft = Shape("random draft", 1, 64, 4, 2, 128, head_dim=16, vocab=vocab)

    def load(dtype: torch.dtype) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(target, dtype=dtype, attn_implementation="sdpa")

    def made_up(dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, None]:
        return move_to(_spread_model(random_draft).to(dtype), device), None  # type: ignore[call-overload]

    return Pair(
        target.name,
        vocab,
        [tokenizer.encode(prompt.text, add_special_tokens=False)[:96] for prompt in mixed_prompts()[:sessions]],
        tokens,
        load,
        made_up if draft is None else lambda dtype, device: load_draft(draft, target, dtype, device),
        drafts=draft is not None,
    )


def _spread_model(shape: Shape) -> PreTrainedModel:
    torch.manual_seed(0)
    model = random_model(shape, torch.float32, CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=SPREAD)
    return model
