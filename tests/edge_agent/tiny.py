"""Tiny random models and what they write when asked plainly, which is what drafts are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edge_agent.drafters.interface import DraftRequest, Proposal
from edge_agent.drafters.model import ModelDrafter
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.sampling.sampler import sample_rows
from edgedraft.wire import Sampling

VOCAB = 97
GREEDY = Sampling(temperature=0.0)
WARM = Sampling(temperature=0.8, top_p=0.95, seed=7)


def tiny_llama(seed: int = 0, vocab_size: int = VOCAB) -> LlamaForCausalLM:
    """Weights large enough that its text is neither a mere repetition nor a toss-up."""
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


@lru_cache
def plain_tiny(seed: int = 0) -> LlamaForCausalLM:
    """One to be called, never to be packed."""
    return tiny_llama(seed)


def tiny_drafter(seed: int = 0, kv_tokens: int = 2048, vocab_size: int = VOCAB, **options: Any) -> ModelDrafter:
    model = PackedModel(tiny_llama(seed, options.pop("own_vocab", VOCAB)), kv_tokens)
    return ModelDrafter(model, options.pop("context_length", 512), vocab_size, **options)


def greedy_text(prompt: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """transformers' own greedy continuation."""
    model: Any = plain_tiny(seed)
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return made[0, len(prompt) :].tolist()


@torch.inference_mode()
def sampled_text(prompt: Sequence[int], count: int, sampling: Sampling, seed: int = 0) -> list[int]:
    """What the target writes by invariant 1, one plain forward a token."""
    model, text = plain_tiny(seed), list(prompt)
    for index in range(count):
        text += sample_rows(model(torch.tensor([text])).logits[0, -1:], sampling, [index])
    return text[len(prompt) :]


def point(
    prompt: Sequence[int], output: Sequence[int] = (), session: int = 1, sampling: Sampling = GREEDY
) -> DraftRequest:
    """A point at the end of prompt and output, all of it settled."""
    context = [*prompt, *output]
    return DraftRequest(session, context, len(context), len(output), sampling)


def complete(drafter: ModelDrafter, asked: DraftRequest) -> Proposal:
    """Ask until the context has been run."""
    for _ in range(100):
        [guesses] = drafter.propose([asked])
        if guesses.complete:
            return guesses
    raise AssertionError("never complete")
