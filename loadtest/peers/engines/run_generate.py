"""transformers' generate: a static batch, left-padded to its longest prompt, SDPA attention."""

from __future__ import annotations

from typing import Any

import torch
from runner import Generate, Output, Setup, serve
from transformers import AutoModelForCausalLM


def load(setup: Setup) -> tuple[Generate, str]:
    torch.set_num_threads(setup.threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        setup.model, dtype=getattr(torch, setup.dtype), attn_implementation="sdpa"
    ).eval()

    def generate(prompts: list[list[int]], tokens: int) -> list[Output]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return output[:, longest:].tolist()

    return generate, "static batch, left padding, SDPA"


if __name__ == "__main__":
    serve(load)
