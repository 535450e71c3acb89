"""Writes a trained student as a folder that pytorch/draft_model.py loads: int8 weights, draft.json, a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from edge_agent.distill.evaluate import CHAIN, Figures, markdown_table
from edge_agent.distill.prompts import KINDS
from edge_agent.distill.student import trained_state
from edge_agent.drafters.pytorch.draft_model import (
    CARD_FILE,
    HEAD_IDS,
    SCALE_SUFFIX,
    SPEC_FILE,
    WEIGHTS_FILE,
    DraftSpec,
    quantise,
)


def write_weights(student: PreTrainedModel, head_ids: torch.Tensor, folder: Path) -> None:
    """Write matrices as int8 with a float16 scale per row, vectors as float32; without the target's embeddings."""
    tensors = {HEAD_IDS: head_ids.to("cpu", torch.int32)}
    for name, tensor in trained_state(student).items():
        if tensor.ndim == 2:
            values, scale = quantise(tensor.cpu())
            tensors[name], tensors[name + SCALE_SUFFIX] = values.contiguous(), scale
        else:
            tensors[name] = tensor.cpu().float().contiguous()
    path = folder / WEIGHTS_FILE
    save_file(tensors, path)
    path.chmod(0o644)


def write_spec(spec: DraftSpec, folder: Path) -> None:
    """Write draft.json. Must be written after the weights: a folder that has it counts as a draft."""
    (folder / SPEC_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(spec)) + b"\n")


def write_card(spec: DraftSpec, figures: dict[str, Figures], written: dict[str, Figures], folder: Path) -> None:
    """Write the model card: form, data, training, acceptance on held-out and on written prompts, and limits."""
    (folder / CARD_FILE).write_text(CARD.format(**_facts(spec, folder), **_tables(figures, written)))


def _tables(figures: dict[str, Figures], written: dict[str, Figures]) -> dict[str, str]:
    return {"table": markdown_table(figures), "written_table": markdown_table(written), "chain": str(CHAIN)}


def _facts(spec: DraftSpec, folder: Path) -> dict[str, Any]:
    training = spec.training
    return {
        "kinds": ", ".join(KINDS),
        **training,
        "target": spec.target,
        "layers": ", ".join(map(str, spec.layers)),
        "count": len(spec.layers),
        "head_size": f"{spec.head_size:,}",
        "megabytes": f"{(folder / WEIGHTS_FILE).stat().st_size / 1e6:.1f}",
        "before": _before(training.get("before") or {}),
        "labelled": f"{training['sampled_tokens']:,}",
        "seen": f"{training['trained_tokens']:,}",
        "minutes": f"{training['seconds'] / 60:.0f}",
    }


def _before(training: dict[str, Any]) -> str:
    """A sentence for each earlier training that this one continued, the latest first."""
    if not training:
        return ""
    sentence = f" Before that: {training['trained_tokens']:,} labelled tokens of {training['sampled_tokens']:,} others."
    return sentence + _before(training.get("before") or {})


CARD = """# Draft model for {target}

A small model that drafts tokens for {target}, made with `edgedraft distill`.
The target verifies every draft token, so this model changes the speed and never the output.

- Form: {count} layers that started as the target's layers {layers}; the target's embeddings (not
  stored here); an output head of {head_size} tokens, the most likely ones. {megabytes} MB, int8 with a scale per row.
- Data: {samples:,} conversations with {labelled} labelled tokens, all written by the target itself. Prompts come from
  templates ({kinds}), and from user turns that the target wrote. Labels are
  its {top_k} most likely tokens at every position. No data set was used.
- Training: {steps:,} steps, {passes:.1f} passes, {seen} labelled tokens, {minutes} minutes on {device}; AdamW at
  {rate}, cross entropy against the target's distribution, embeddings frozen.{before}
- Licence: the target's, since it was made from the target's weights.

## Acceptance

Measured on {held_out} greedy answers to {held_out_prompts} held-out prompts. Their templates, subjects and names were
kept out of the training prompts; user turns that the target wrote may touch the same subjects.
"top-k": share of tokens among the draft model's k most likely ones after the true prefix. "tokens per verify": tokens
per verification with a plain chain of {chain} draft tokens, the target's own token included. Measured with the weights
as stored.

{table}

On answers to {written} prompts that were written by hand and had no part in the training or in the choice of its
checkpoint:

{written_table}

## Limits

- Measured at temperature 0, on short prompts, most of them English. Trained on conversations below {sample_length}
  tokens; longer contexts and other languages were not measured; expect less.
- The checkpoint was selected on the same held-out answers that the first table shows.
- Held-out prompts come from the same generator as the training prompts; the second table is nearer to users' prompts.
- A token outside the head is never drafted; the text then takes one more verification.
- Drafts imitate the target, including its mistakes; nothing was done about its content.
"""
