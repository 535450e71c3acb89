"""The shipped draft model as an ordinary GGUF file, for llama.cpp beside the same model in torch.

A distilled draft has an output head cut to the most frequent tokens, which GGUF files cannot have. The missing rows
point away from the mean of the last hidden states here, so that their tokens get low logits wherever the draft is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from edge_agent.drafters.pytorch.draft_model import load_draft, shipped_draft
from edgedraft.local.demo_model import DEMO_MODEL, resolve_model
from loadtest.peers.engines.write_gguf import write_gguf
from loadtest.workloads import mixed_prompts, prompt_tokens

UNLIKELY = -100.0


def write_draft_gguf(folder: Path, dtype: str = "float32") -> Path:
    """Write the draft for the demo target into `folder`, float32 takes 340 MB and q8_0 90; returns the GGUF file."""
    shipped, target = shipped_draft(DEMO_MODEL), Path(resolve_model(DEMO_MODEL))
    assert shipped is not None
    model, head_ids = load_draft(shipped, target)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    head = _unlikely_row(model, AutoTokenizer.from_pretrained(target)).repeat(
        model.config.get_text_config().vocab_size, 1
    )
    head[head_ids] = state["lm_head.weight"]
    whole = folder / "draft"
    whole.mkdir()
    save_file(state | {"lm_head.weight": head}, whole / "model.safetensors", {"format": "pt"})
    (whole / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))
    shutil.copy(target / "tokenizer.json", whole)
    file = folder / "draft.gguf"
    write_gguf(whole, file, dtype)
    (whole / "model.safetensors").unlink()
    return file


@torch.inference_mode()
def _unlikely_row(model: Any, tokenizer: Any) -> torch.Tensor:
    """A row [hidden] of an output head whose logit is UNLIKELY in the mean of some prompts' last states."""
    text = [token for prompt in mixed_prompts()[::2] for token in prompt_tokens(tokenizer, prompt.text)]
    mean = model.model(torch.tensor([text])).last_hidden_state[0].mean(0)
    return mean * (UNLIKELY / float(mean @ mean))
