"""Measures how well a student predicts the target, on held-out greedy answers, per kind of prompt.

One forward of the student over an answer gives its draft after every true prefix. A chain of CHAIN draft tokens is
accepted up to its first mismatch; replaying that along each answer gives the tokens per verification of plain chain
drafting at temperature 0. Nothing here measures time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import torch
from transformers import PreTrainedModel

from edge_agent.distill.samples import Sample
from edgedraft.runtime.device import has_bfloat16_matmul

CHAIN = 5
RANKS = (1, 2, 3, 5, 8)


class Figures(msgspec.Struct, frozen=True):
    """`top[k]` is the share of tokens among the student's k most likely ones."""

    tokens: int
    top: dict[str, float]
    tokens_per_verify: float


def evaluate(student: PreTrainedModel, head_ids: torch.Tensor, samples: Sequence[Sample]) -> dict[str, Figures]:
    """Figures by kind of prompt, and under "all" those of all samples together."""
    ranks: dict[str, list[torch.Tensor]] = defaultdict(list)
    for sample in samples:
        rank = token_ranks(student, head_ids, sample)
        ranks[sample.kind].append(rank)
        ranks["all"].append(rank)
    return {kind: _figures(found) for kind, found in sorted(ranks.items())}


@torch.inference_mode()
def token_ranks(student: PreTrainedModel, head_ids: torch.Tensor, sample: Sample) -> torch.Tensor:
    """Per generated token, how many tokens the student ranks higher, int64 [labels]; one not in its head ranks last."""
    device = head_ids.device
    ids = sample.ids.long().to(device)
    at = sample.positions.long().to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16_matmul(device)):
        logits = student(ids[None, :-1], use_cache=False).logits[0, at - 1].float()
    column = torch.searchsorted(head_ids, ids[at]).clamp_max(len(head_ids) - 1)
    known = head_ids[column] == ids[at]
    rank = (logits > logits.gather(1, column[:, None])).sum(1)
    return torch.where(known, rank, len(head_ids)).cpu()


def simulate_chain(hits: Sequence[bool], chain: int = CHAIN) -> tuple[int, int]:
    """(tokens, verifications) when each verification accepts the next hits, at most `chain`, and adds one token."""
    at = verifications = 0
    while at < len(hits):
        run = 0
        while run < chain and at + run < len(hits) and hits[at + run]:
            run += 1
        at += run + 1
        verifications += 1
    return len(hits), verifications


def markdown_table(figures: dict[str, Figures]) -> str:
    """The figures as a Markdown table."""
    head = "| kind | tokens | " + " | ".join(f"top-{k}" for k in RANKS) + " | tokens per verify |"
    lines = [head, "|---" * (len(RANKS) + 3) + "|"]
    for kind, row in figures.items():
        rates = " | ".join(f"{row.top[str(k)]:.3f}" for k in RANKS)
        lines.append(f"| {kind} | {row.tokens} | {rates} | {row.tokens_per_verify:.2f} |")
    return "\n".join(lines)


def _figures(ranks: list[torch.Tensor]) -> Figures:
    flat = torch.cat(ranks)
    yields = [simulate_chain((rank == 0).tolist()) for rank in ranks]
    return Figures(
        tokens=len(flat),
        top={str(k): round(float((flat < k).float().mean()), 4) for k in RANKS},
        tokens_per_verify=round(sum(y[0] for y in yields) / max(1, sum(y[1] for y in yields)), 4),
    )
