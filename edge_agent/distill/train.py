"""Training of the child on the target's labels, in packed rows, to a budget of passes and of time.

The loss is the cross entropy against the target's distribution, seen as its few most probable tokens and one bucket
for all others, plus a share of plain cross entropy on the most probable token. Only generated tokens are learned.
An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from transformers import PreTrainedModel

from edge_agent.distill.evaluate import Figures, evaluate
from edge_agent.distill.samples import Sample
from edge_agent.distill.student import learned_state
from edge_agent.drafters.draft_model import move_to
from edge_agent.settings import DistillSettings
from edgedraft.observability.progress import progress
from edgedraft.runtime.device import has_bfloat16_matmul

HARD_SHARE = 0.3
WARM_UP = 0.04
FINAL_RATE = 0.03
# Rows that packing fills at the same time: enough choice to leave few gaps, and an order that stays random.
OPEN_ROWS = 48


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows. `where` are flat indices of the positions that predict the labelled tokens."""

    ids: torch.Tensor
    position_ids: torch.Tensor
    where: torch.Tensor
    top_ids: torch.Tensor
    top_logps: torch.Tensor


class Report(msgspec.Struct):
    """What the training came to."""

    steps: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    labelled_tokens: int = 0
    losses: list[float] = []
    figures: dict[str, Figures] = {}


def pack(samples: Sequence[Sample], row_tokens: int, rows: int, seed: str) -> Iterator[Batch]:
    """One pass in a random order. Each sample goes to the fullest open row that has room for it; longer ones than a
    row lose their ends."""
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    open_rows: list[list[Sample]] = []
    room: list[int] = []
    full: list[list[Sample]] = []
    for index in order:
        sample = _first_tokens(samples[index], row_tokens)
        if sample is None:
            continue
        length = len(sample.ids)
        fitting = [i for i, left in enumerate(room) if left >= length]
        if fitting:
            best = min(fitting, key=room.__getitem__)
        else:
            open_rows.append([])
            room.append(row_tokens)
            best = len(room) - 1
        open_rows[best].append(sample)
        room[best] -= length
        if len(room) > OPEN_ROWS:
            closed = min(range(len(room)), key=room.__getitem__)
            full.append(open_rows.pop(closed))
            room.pop(closed)
        if len(full) == rows:
            yield _batch(full, row_tokens)
            full = []
    full += open_rows
    for start in range(0, len(full), rows):
        yield _batch(full[start : start + rows], row_tokens)


def _first_tokens(sample: Sample, room: int) -> Sample | None:
    """The sample, or its first part if that has labels."""
    if len(sample.ids) <= room:
        return sample
    labels = int((sample.positions < room).sum())
    if labels == 0:
        return None
    ids, positions = sample.ids[:room], sample.positions[:labels]
    return Sample(sample.kind, ids, positions, sample.top_ids[:labels], sample.top_logps[:labels])


def _batch(rows: list[list[Sample]], row_tokens: int) -> Batch:
    ids = torch.zeros(len(rows), row_tokens, dtype=torch.long)
    position_ids = torch.zeros_like(ids)
    where, top_ids, top_logps = [], [], []
    for r, row in enumerate(rows):
        at = 0
        for sample in row:
            end = at + len(sample.ids)
            ids[r, at:end] = sample.ids
            # Positions that start again at 0 are how transformers knows that rows are packed.
            position_ids[r, at:end] = torch.arange(end - at)
            where.append(sample.positions.long() - 1 + at + r * row_tokens)
            top_ids.append(sample.top_ids)
            top_logps.append(sample.top_logps)
            at = end
        position_ids[r, at:] = torch.arange(row_tokens - at)
    return Batch(ids, position_ids, torch.cat(where), torch.cat(top_ids).long(), torch.cat(top_logps).float())


def distillation_loss(logits: torch.Tensor, columns: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
    """Mean loss of [n, width] logits against the target's k best tokens; columns of tokens not in the head are -1."""
    logits = logits.float()
    known = columns >= 0
    guessed = (logits.gather(1, columns.clamp_min(0)) - logits.logsumexp(1, keepdim=True)).masked_fill(
        ~known, -torch.inf
    )
    wanted = logps.exp() * known
    rest = (1 - wanted.sum(1)).clamp_min(0)
    guessed_rest = torch.log1p(-guessed.exp().sum(1).clamp_max(1 - 1e-4))
    safe = guessed.masked_fill(~known, 0.0)
    soft = -(wanted * safe).sum(1) - rest * guessed_rest
    # Column 0 is the most probable token; where the head lacks it there is no hard label.
    hard = -safe[:, 0]
    return (soft + HARD_SHARE * hard).mean()


class Trainer:
    """One child, its optimiser and its place in the data."""

    def __init__(
        self, child: PreTrainedModel, head_ids: torch.Tensor, vocab_size: int, settings: DistillSettings, device: str
    ) -> None:
        self.child = move_to(child, device)
        self._settings, self._device = settings, torch.device(device)
        self._head_ids = head_ids.to(device)
        self._columns = torch.full((vocab_size,), -1, dtype=torch.long, device=device)
        self._columns[self._head_ids] = torch.arange(len(head_ids), device=device)
        learned = [parameter for parameter in child.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in learned if parameter.ndim > 1]
        plain = [parameter for parameter in learned if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)
        self._checkpoint = settings.work / "checkpoint.pt"
        self._best = settings.work / "best.pt"
        self.report = Report()
        self._best_yield = 0.0

    def step(self, batch: Batch, rate: float) -> float:
        """One update; its loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.child.train()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=has_bfloat16_matmul(self._device)):
            body: Any = self.child.base_model
            hidden = body(
                batch.ids.to(self._device), position_ids=batch.position_ids.to(self._device), use_cache=False
            ).last_hidden_state
            head: Any = self.child.get_output_embeddings()
            logits = head(hidden.flatten(0, 1)[batch.where.to(self._device)])
        loss = distillation_loss(
            logits, self._columns[batch.top_ids.to(self._device)], batch.top_logps.to(self._device)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self.child.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def train(self, samples: Sequence[Sample], held_out: Sequence[Sample]) -> Report:
        """Train to the end of the budget, and leave the child with its best checkpoint's weights."""
        self._resume()
        settings, report = self._settings, self.report
        per_pass = sum(1 for _ in pack(samples, settings.row_tokens, settings.rows, f"{settings.seed}/0"))
        total = max(1, math.ceil(per_pass * settings.passes))
        clock = time.monotonic()
        next_look = clock + settings.evaluate_seconds
        recent = report.losses[-1] if report.losses else 0.0
        with progress("training", total, "steps") as advance:
            advance(report.steps)
            for batch in self._batches(samples, report.steps, total):
                done = max(report.steps / total, report.seconds / settings.train_seconds)
                if done >= 1:
                    break
                loss = self.step(batch, settings.rate * rate_at(done))
                recent = loss if report.steps == 0 else 0.95 * recent + 0.05 * loss
                report.steps += 1
                report.labelled_tokens += len(batch.where)
                report.passes = report.steps / per_pass
                report.losses.append(round(loss, 4))
                now = time.monotonic()
                report.seconds, clock = report.seconds + now - clock, now
                advance(1, f"loss {recent:.3f}, {self._note()}")
                if now >= next_look:
                    self._look(held_out)
                    clock = time.monotonic()
                    next_look = clock + settings.evaluate_seconds
        self._look(held_out)
        best = torch.load(self._best, map_location=self._device, weights_only=True)
        self.child.load_state_dict(best, strict=False)
        report.figures = evaluate(self.child.eval(), self._head_ids, held_out)
        return report

    def _batches(self, samples: Sequence[Sample], skip: int, total: int) -> Iterator[Batch]:
        step = 0
        number = 0
        while step < total:
            for batch in pack(
                samples, self._settings.row_tokens, self._settings.rows, f"{self._settings.seed}/{number}"
            ):
                if step >= skip:
                    yield batch
                step += 1
            number += 1

    def _note(self) -> str:
        overall = self.report.figures.get("all")
        return f"held-out top-1 {overall.top['1']:.3f}, {overall.tokens_per_verify:.2f} a verify" if overall else ""

    def _look(self, held_out: Sequence[Sample]) -> None:
        """Measure, and keep a checkpoint."""
        self.report.figures = evaluate(self.child.eval(), self._head_ids, held_out)
        overall = self.report.figures["all"].tokens_per_verify
        if overall >= self._best_yield:
            self._best_yield = overall
            _save(learned_state(self.child), self._best)
        state = {
            "child": learned_state(self.child),
            "optimizer": self._optimizer.state_dict(),
            "report": msgspec.json.encode(self.report).decode(),
            "best": self._best_yield,
        }
        _save(state, self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        self.child.load_state_dict(state["child"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        self.report = msgspec.json.decode(state["report"], type=Report)
        self._best_yield = state["best"]


def rate_at(done: float) -> float:
    """Share of the peak rate after `done` of the budget: warm-up, then a cosine."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _save(state: object, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
