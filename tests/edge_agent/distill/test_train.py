"""Packing and the distillation loss."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_agent.distill.samples import HELD_OUT, load_samples
from edge_agent.distill.train import distillation_loss, pack
from edge_agent.settings import DistillSettings


def test_packing_keeps_every_label_in_place(draft: Path, distilled: DistillSettings) -> None:
    samples = load_samples(distilled.work / "samples" / HELD_OUT)
    labels = 0
    for batch in pack(samples, 512, 2, "seed"):
        # The answers are greedy: every label's best token is the token that stands there.
        assert torch.equal(batch.ids.flatten()[batch.label_rows + 1], batch.top_ids[:, 0])
        assert (batch.position_ids.flatten()[batch.label_rows + 1] > 0).all()
        labels += len(batch.label_rows)
    total = sum(len(sample.positions) for sample in samples)
    assert 0.5 * total < labels <= total


def test_the_loss_is_least_where_the_student_agrees() -> None:
    logits = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    logps, columns = logits.log_softmax(-1).topk(4)
    same = distillation_loss(logits, columns, logps)
    other = distillation_loss(logits.roll(1, 0), columns, logps)
    assert same < other
    # A label that the head lacks moves nothing to infinity.
    columns[:, 0] = -1
    assert distillation_loss(logits, columns, logps).isfinite()
