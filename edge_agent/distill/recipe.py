"""Runs the stages of a distillation in order."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from edge_agent.distill.collect import collect_samples
from edge_agent.distill.evaluate import evaluate, markdown_table
from edge_agent.distill.export import write_card, write_spec, write_weights
from edge_agent.distill.samples import HELD_OUT, WRITTEN, load_samples, shards
from edge_agent.distill.student import choose_head, default_layers, make_student
from edge_agent.distill.train import Trainer
from edge_agent.drafters.pytorch.draft_model import (
    HEAD_IDS,
    DraftSpec,
    embedding_name,
    load_draft,
    move_to,
    read_spec,
    shipped_draft,
)
from edge_agent.settings import DistillSettings
from edgedraft.local.demo_model import resolve_model
from edgedraft.runtime.device import has_bfloat16_matmul
from edgedraft.tokenizer import fingerprint


def distill(settings: DistillSettings) -> None:
    """Collect samples, train a student, export it, and measure it as stored."""
    if settings.onnx is not None:
        import_module("edge_agent.onnx.export")  # a package that is missing is said before the work, not after it
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = resolve_model(settings.target)
    tokenizer = AutoTokenizer.from_pretrained(path)
    target = load_target(path, device)
    stop = stop_tokens(target, tokenizer)
    collect_samples(target, tokenizer, stop, settings)
    samples = [sample for shard in shards(settings.work / "samples") for sample in load_samples(shard)]
    held_out = load_samples(settings.work / "samples" / HELD_OUT)
    written = load_samples(settings.work / "samples" / WRITTEN)

    vocab_size = num_embeddings(target)
    before: dict[str, Any] = {}
    if settings.start:
        earlier, student, head_ids = load_start_draft(settings.start, path)
        layers = earlier.layers
        before = {name: value for name, value in earlier.training.items() if not name.startswith("acceptance")}
    else:
        layers = settings.layers or default_layers(target.config.num_hidden_layers)
        head_ids = choose_head(samples, vocab_size, settings.head_size, {*stop, *tokenizer.all_special_ids})
        student = make_student(_load(path, torch.float32, "cpu"), layers, head_ids)
    del target
    trainer = Trainer(student, head_ids, vocab_size, settings, device)
    report = trainer.train(samples, held_out)

    settings.out.mkdir(parents=True, exist_ok=True)
    write_weights(trainer.student, head_ids, settings.out)
    spec = DraftSpec(
        target=settings.target,
        layers=layers,
        head=HEAD_IDS,
        head_size=len(head_ids),
        tokenizer=fingerprint(tokenizer.backend_tokenizer.to_str()),
        training={
            "samples": len(samples),
            "sampled_tokens": sum(len(sample.positions) for sample in samples),
            "trained_tokens": report.labelled_tokens,
            "before": before,
            "steps": report.steps,
            "passes": round(report.passes, 2),
            "seconds": round(report.seconds),
            "first_loss": report.losses[0] if report.losses else None,
            "last_loss": round(sum(report.losses[-20:]) / max(1, len(report.losses[-20:])), 4),
            "rate": settings.rate,
            "top_k": settings.top_k,
            "held_out": len(held_out),
            "written": len(written),
            "held_out_prompts": len({tuple(s.ids[: s.positions[0]].tolist()) for s in held_out}),
            "sample_length": settings.sample_length,
            "device": describe_device(device),
        },
    )
    write_spec(spec, settings.out)
    # Measured as stored, with the rounding of int8 weights.
    stored, ids = load_draft(settings.out, path, torch.float32, device)
    assert ids is not None
    figures, written_figures = evaluate(stored, ids, held_out), evaluate(stored, ids, written)
    acceptance = {
        "acceptance": msgspec.to_builtins(figures),
        "acceptance_written": msgspec.to_builtins(written_figures),
    }
    spec = msgspec.structs.replace(spec, training={**spec.training, **acceptance})
    write_spec(spec, settings.out)
    write_card(spec, figures, written_figures, settings.out)
    if settings.onnx is not None:
        from edge_agent.onnx.export import export_draft

        export_draft(str(settings.out), settings.onnx)
    print(f"{settings.out}\n{markdown_table(figures)}\n\n{markdown_table(written_figures)}", file=sys.stderr)


def load_start_draft(start: str, target: str) -> tuple[DraftSpec, PreTrainedModel, torch.Tensor]:
    """Spec, model and head ids of an earlier draft to train further. Raises OSError when it does not exist."""
    folder = shipped_draft(start) or Path(start)
    student, head_ids = load_draft(folder, target, torch.float32)
    assert head_ids is not None
    student.get_parameter(embedding_name(student)).requires_grad_(False)
    return read_spec(folder), student, head_ids


def load_target(path: str, device: str) -> PreTrainedModel:
    """The target, for sampling: in bfloat16, which halves the time, except on a CPU without instructions for it."""
    return _load(path, torch.bfloat16 if has_bfloat16_matmul(torch.device(device)) else torch.float32, device)


def stop_tokens(target: PreTrainedModel, tokenizer: Any) -> set[int]:
    """The ids of all tokens that end an answer."""
    ends = target.generation_config.eos_token_id if target.generation_config else None
    found = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return {token for token in found if token is not None}


def num_embeddings(model: PreTrainedModel) -> int:
    """The number of embeddings, which may exceed the tokenizer's vocabulary size."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return len(weight)


def describe_device(device: str) -> str:
    """The training device, for the model card."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


def _load(path: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    return move_to(AutoModelForCausalLM.from_pretrained(path, dtype=dtype), device).eval()
