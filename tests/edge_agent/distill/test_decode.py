"""Decoded samples: the labels are the target's own probabilities."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from edge_agent.distill.prompts import KINDS
from edge_agent.distill.samples import HELD_OUT, load_samples, shards
from edge_agent.settings import DistillSettings


def test_labels_are_the_targets_own_probabilities(draft: Path, distilled: DistillSettings) -> None:
    model = AutoModelForCausalLM.from_pretrained(distilled.target)
    samples = load_samples(shards(distilled.work / "samples")[0])
    assert {sample.kind for sample in samples} <= set(KINDS)
    for sample in [max(samples, key=lambda s: len(s.ids)), *samples[:5]]:
        with torch.inference_mode():
            logits = model(sample.ids.long()[None]).logits[0, sample.positions.long() - 1]
        values, ids = logits.log_softmax(-1).topk(8, dim=1)
        # The target may have run in bfloat16.
        assert (values - sample.top_logps.float()).abs().mean() < 0.1
        assert (ids[:, 0] == sample.top_ids[:, 0]).float().mean() > 0.8
    greedy = load_samples(distilled.work / "samples" / HELD_OUT)
    assert 0 < len(greedy) <= 2 * len(KINDS)
    assert all(torch.equal(s.ids[s.positions.long()], s.top_ids[:, 0]) for s in greedy)
