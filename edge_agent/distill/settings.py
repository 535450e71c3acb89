"""Settings of a distillation. This file does nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgedraft.demo_model import DEMO_MODEL


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """What `edgedraft distill` needs. Every stage goes on where an earlier run of the same `work` folder stopped."""

    target: str = field(default=DEMO_MODEL, metadata=_help("Name, folder or hub name of the model to imitate"))
    out: Path = field(default=Path("draft"), metadata=_help("Folder for the finished draft"))
    work: Path = field(default=Path("distill-work"), metadata=_help("Folder for samples and checkpoints"))
    layers: tuple[int, ...] = field(
        default=(),
        metadata=_help("The target's layers to start from; empty: the first five, a middle one, the last two"),
    )
    head_size: int = field(default=16384, metadata=_help("Rows of the cut output head"))
    tokens: int = field(default=1_000_000, metadata=_help("Labelled tokens to collect"))
    sample_seconds: float = field(default=1800.0, metadata=_help("Time limit of the collection"))
    slots: int = field(default=128, metadata=_help("Conversations that the target decodes at once"))
    sample_length: int = field(
        default=352, metadata=_help("Longest conversation in tokens; longer prompts are left out")
    )
    answer_tokens: int = field(default=200, metadata=_help("Longest answer"))
    top_k: int = field(default=12, metadata=_help("Labels kept of each position"))
    held_out: int = field(default=24, metadata=_help("Held-out prompts of each kind"))
    passes: float = field(default=4.0, metadata=_help("Passes over the samples"))
    train_seconds: float = field(default=2700.0, metadata=_help("Time limit of the training"))
    row_tokens: int = field(default=512, metadata=_help("Length of a packed row"))
    rows: int = field(default=4, metadata=_help("Packed rows of one step"))
    rate: float = field(default=5e-4, metadata=_help("Peak learning rate"))
    evaluate_seconds: float = field(default=300.0, metadata=_help("Time between two checkpoints with held-out figures"))
    seed: int = field(default=0, metadata=_help("Seed of prompts, answers and order"))
    device: str = field(default="", metadata=_help("Device of target and child; empty: CUDA where there is one"))
