"""Draft models on disk: what is stored, loading with a target, int8 rounding, and the shipped draft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from edge_agent.drafters.pytorch import draft_model
from edge_agent.settings import DistillSettings
from edgedraft.local.demo_model import DEMO_MODEL, ensure_demo_model
from edgedraft.tokenizer import fingerprint


def test_the_stored_draft_is_the_trained_child_within_the_rounding_of_int8(
    draft: Path, distilled: DistillSettings
) -> None:
    model, head_ids = draft_model.load_draft(draft, distilled.target)
    assert head_ids is not None
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.num_hidden_layers == 2
    assert [getattr(layer.self_attn, "layer_idx", None) for layer in model.model.layers] == [0, 1]
    exact, _ = draft_model.load_draft(draft, distilled.target)
    best = torch.load(distilled.work / "best.pt", weights_only=True)
    assert not exact.load_state_dict(best, strict=False).unexpected_keys
    ids = torch.randint(0, 200, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        stored, trained = model(ids).logits, exact(ids).logits
    assert stored.shape == (2, 40, len(head_ids))
    # Measured up to 0.033: how far the child is trained, and so how it rounds, differs from run to run.
    assert (stored - trained).abs().mean() < 0.06 * trained.std()
    assert 1 in head_ids.tolist()
    assert head_ids.tolist() == sorted(set(head_ids.tolist()))


def test_the_embeddings_are_the_targets_and_are_not_stored(draft: Path, distilled: DistillSettings) -> None:
    model, _ = draft_model.load_draft(draft, distilled.target, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    whole = AutoModelForCausalLM.from_pretrained(distilled.target)
    ours, theirs = (m.state_dict()["model.embed_tokens.weight"] for m in (model, whole))
    assert torch.equal(ours, theirs.bfloat16())
    sizes = [path.stat().st_size for path in draft.iterdir()]
    assert sum(sizes) < 60_000


def test_a_plain_model_loads_without_head_ids(distill_target: Path) -> None:
    model, head_ids = draft_model.load_draft(distill_target)
    assert head_ids is None
    assert model.config.num_hidden_layers == 3


def test_a_draft_without_its_target_or_for_another_format_is_refused(draft: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target's embeddings"):
        draft_model.load_draft(draft)
    spec = msgspec.structs.replace(draft_model.read_spec(draft), format="edgedraft-draft/9")
    (tmp_path / draft_model.SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    with pytest.raises(ValueError, match="edgedraft-draft/9"):
        draft_model.load_draft(tmp_path, "unused")


def test_int8_rows_come_back_within_half_a_step() -> None:
    noise = torch.randn((7, 33), generator=torch.Generator().manual_seed(0))
    matrix = noise * torch.logspace(-9, 2, 7)[:, None]
    values, scale = draft_model.quantise(matrix)
    assert values.dtype == torch.int8
    error = (draft_model.dequantise(values, scale) - matrix).abs()
    # Half a step, and at the clipped end what the scale lost: 2^-11 of it, or half of float16's smallest number.
    assert (error <= 0.6 * scale.float()[:, None] + 127 * 2.0**-25).all()


def test_the_shipped_draft_fits_the_demo_model() -> None:
    folder = draft_model.shipped_draft(DEMO_MODEL)
    assert folder is not None
    assert draft_model.shipped_draft("no-such-model") is None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 40_000_000
    demo = ensure_demo_model()
    spec = draft_model.read_spec(folder)
    assert spec.tokenizer == fingerprint((demo / "tokenizer.json").read_bytes())
    draft, head_ids = draft_model.load_draft(folder, demo)
    assert head_ids is not None
    target: Any = AutoModelForCausalLM.from_pretrained(demo)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    hits = total = 0
    for question in ("What is photosynthesis?", "Write a Python function that reverses a string."):
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        text = target.generate(**prompt, max_new_tokens=64, do_sample=False)
        start = prompt["input_ids"].shape[1]
        with torch.inference_mode():
            drafted = head_ids[draft(text[:, :-1]).logits[0, start - 1 :].argmax(-1)]
        hits += int((drafted == text[0, start:]).sum())
        total += len(drafted)
    assert hits / total > 0.3
