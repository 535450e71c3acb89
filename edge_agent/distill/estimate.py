"""`edgedraft distill --estimate`: what a distillation computes, and how long GPUs take, from a configuration alone.

Floating-point operations are counted by torch on models without weights (torch.utils.flop_counter, meta device). Times
assume a share of a GPU's dense bfloat16 peak, and for decoding also that each step reads all weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from edge_agent.distill.student import default_layers
from edge_agent.drafters.pytorch.draft_model import embedding_name, empty_student, student_config
from edge_agent.settings import DistillSettings

UTILISATION = 0.4  # of the peak, in prefill, decoding of many rows and training alike
ROW_TOKENS = 512
# Tokens of a conversation for each labelled one: prompts are read by the target and by the student, and not labelled.
TOKENS_PER_LABEL = 1.6


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet: dense bfloat16 FLOP/s, memory bandwidth in bytes/s, memory in bytes."""

    name: str
    flops: float
    bandwidth: float
    memory: float


GPUS = (
    Gpu("A100 80 GB", 312e12, 2.04e12, 80e9),
    Gpu("H100 SXM", 989e12, 3.35e12, 80e9),
    Gpu("H200", 989e12, 4.8e12, 141e9),
)


@dataclass(frozen=True)
class Estimate:
    """Parameters, and floating-point operations per token: of a forward, of the student's also of a training step."""

    target_parameters: int
    target_flops: float
    student_parameters: int
    student_flops: float
    training_flops: float

    def sampling_hours(self, gpu: Gpu, tokens: int, slots: int) -> float:
        """GPU hours in which the target writes `tokens` labelled tokens, `slots` conversations at once."""
        step = max(self.target_flops * slots / (gpu.flops * UTILISATION), 2 * self.target_parameters / gpu.bandwidth)
        prompts = (TOKENS_PER_LABEL - 1) * tokens * self.target_flops / (gpu.flops * UTILISATION)
        return (tokens / slots * step + prompts) / 3600

    def training_hours(self, gpu: Gpu, tokens: int, passes: float) -> float:
        """GPU hours of `passes` passes over `tokens` labelled tokens."""
        return tokens * TOKENS_PER_LABEL * passes * self.training_flops / (gpu.flops * UTILISATION) / 3600

    def memory(self) -> float:
        """Bytes of the target in bfloat16, and of the student with gradients and AdamW's state in float32."""
        return 2 * self.target_parameters + 16 * self.student_parameters


def estimate(settings: DistillSettings, target: str) -> Estimate:
    """Count for a target by its folder or name, of which only the configuration is read. Raises OSError, ValueError."""
    config = AutoConfig.from_pretrained(target)
    layers = settings.layers or default_layers(config.num_hidden_layers)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
        student = empty_student(student_config(config, layers), settings.head_size, torch.float32)
    student.get_parameter(embedding_name(student)).requires_grad_(False)
    return Estimate(
        target_parameters=whole.num_parameters(),
        target_flops=_count(whole, train=False),
        student_parameters=sum(p.numel() for p in student.parameters() if p.requires_grad),
        student_flops=_count(student, train=False),
        training_flops=_count(student, train=True),
    )


def markdown_estimate(found: Estimate, settings: DistillSettings) -> str:
    """The estimate as Markdown: sizes, and hours per GPU."""
    lines = [
        f"Target: {found.target_parameters / 1e9:.2f} billion parameters,"
        f" {found.target_flops / 1e9:.2f} GFLOP per token.",
        f"Student: {found.student_parameters / 1e9:.3f} billion trained parameters,"
        f" {found.student_flops / 1e9:.2f} GFLOP per token, {found.training_flops / 1e9:.2f} to train on one.",
        f"{settings.tokens:,} labelled tokens, {settings.passes:g} passes, {settings.slots} conversations at once,"
        f" {UTILISATION:.0%} of the peak.",
        "",
        "| GPU | sampling, hours | training, hours | fits into one |",
        "|---|--:|--:|---|",
    ]
    for gpu in GPUS:
        sampling = found.sampling_hours(gpu, settings.tokens, settings.slots)
        training = found.training_hours(gpu, settings.tokens, settings.passes)
        fits = "yes" if found.memory() < 0.85 * gpu.memory else "no"
        lines.append(f"| {gpu.name} | {sampling:.2f} | {training:.2f} | {fits} |")
    return "\n".join(lines)


def _count(model: PreTrainedModel, train: bool) -> float:
    """FLOP per token of a forward over a row, with backward if `train`."""
    ids = torch.zeros(1, ROW_TOKENS, dtype=torch.long, device="meta")
    mask = torch.ones(1, 1, ROW_TOKENS, ROW_TOKENS, dtype=torch.bool, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(train):
        logits = model(ids, attention_mask=mask, use_cache=False).logits
        if train:
            logits.sum().backward()
    return counter.get_total_flops() / ROW_TOKENS
