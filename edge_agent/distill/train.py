"""Trains the student on the target's labels, in packed rows, for a budget of passes and time.

The loss is the cross entropy against the target's distribution over its top-k tokens and one bucket for all others,
plus a share of plain cross entropy on the most likely token. Only generated tokens are labels. An interrupted run
resumes from its last checkpoint.
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
from edge_agent.distill.student import trained_state
from edge_agent.drafters.pytorch.draft_model import move_to
from edge_agent.settings import DistillSettings
from edgedraft.observability.progress import progress
from edgedraft.runtime.device import has_bfloat16_matmul

HARD_SHARE = 0.3
WARM_UP = 0.04
FINAL_RATE = 0.03
# Rows that packing fills at the same time: enough to leave little padding and keep the order random.
OPEN_ROWS = 48


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Packed rows: `ids` and `position_ids` [rows, row_tokens], labels [labels, top_k].

    `label_rows` [labels] are indices into the flattened rows: the positions that predict the labelled tokens.
    """

    ids: torch.Tensor
    position_ids: torch.Tensor
    label_rows: torch.Tensor
    top_ids: torch.Tensor
    top_logps: torch.Tensor


class TrainingReport(msgspec.Struct):
    """The progress and the results of a training; part of its checkpoints."""

    steps: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    labelled_tokens: int = 0
    losses: list[float] = []
    figures: dict[str, Figures] = {}


def pack(samples: Sequence[Sample], row_tokens: int, rows: int, seed: str) -> Iterator[TrainingBatch]:
    """Pack one pass over the samples, in random order, into batches of `rows` rows (best-fit packing).

    Each sample goes to the fullest open row that it fits into; samples longer than a row are truncated.
    """
    order = list(range(len(samples)))
    random.Random(seed).shuffle(order)
    open_rows: list[list[Sample]] = []
    free: list[int] = []
    full: list[list[Sample]] = []
    for index in order:
        sample = _first_tokens(samples[index], row_tokens)
        if sample is None:
            continue
        length = len(sample.ids)
        fitting = [i for i, left in enumerate(free) if left >= length]
        if fitting:
            best = min(fitting, key=free.__getitem__)
        else:
            open_rows.append([])
            free.append(row_tokens)
            best = len(free) - 1
        open_rows[best].append(sample)
        free[best] -= length
        if len(free) > OPEN_ROWS:
            closed = min(range(len(free)), key=free.__getitem__)
            full.append(open_rows.pop(closed))
            free.pop(closed)
        if len(full) == rows:
            yield _batch(full, row_tokens)
            full = []
    full += open_rows
    for start in range(0, len(full), rows):
        yield _batch(full[start : start + rows], row_tokens)


def _first_tokens(sample: Sample, free: int) -> Sample | None:
    """The sample, truncated to `free` tokens; None if no label is left."""
    if len(sample.ids) <= free:
        return sample
    labels = int((sample.positions < free).sum())
    if labels == 0:
        return None
    ids, positions = sample.ids[:free], sample.positions[:labels]
    return Sample(sample.kind, ids, positions, sample.top_ids[:labels], sample.top_logps[:labels])


def _batch(rows: list[list[Sample]], row_tokens: int) -> TrainingBatch:
    ids = torch.zeros(len(rows), row_tokens, dtype=torch.long)
    position_ids = torch.zeros_like(ids)
    label_rows, top_ids, top_logps = [], [], []
    for r, row in enumerate(rows):
        at = 0
        for sample in row:
            end = at + len(sample.ids)
            ids[r, at:end] = sample.ids
            # transformers detects packed rows by position ids that restart at 0.
            position_ids[r, at:end] = torch.arange(end - at)
            label_rows.append(sample.positions.long() - 1 + at + r * row_tokens)
            top_ids.append(sample.top_ids)
            top_logps.append(sample.top_logps)
            at = end
        position_ids[r, at:] = torch.arange(row_tokens - at)
    return TrainingBatch(
        ids, position_ids, torch.cat(label_rows), torch.cat(top_ids).long(), torch.cat(top_logps).float()
    )


def distillation_loss(logits: torch.Tensor, columns: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
    """The mean loss of logits [n, width] against the target's top-k tokens.

    `columns` [n, k] are the tokens' logit columns, -1 for those not in the head; `logps` [n, k] their
    log-probabilities.
    """
    logits = logits.float()
    known = columns >= 0
    predicted = (logits.gather(1, columns.clamp_min(0)) - logits.logsumexp(1, keepdim=True)).masked_fill(
        ~known, -torch.inf
    )
    labels = logps.exp() * known
    rest = (1 - labels.sum(1)).clamp_min(0)
    predicted_rest = torch.log1p(-predicted.exp().sum(1).clamp_max(1 - 1e-4))
    safe = predicted.masked_fill(~known, 0.0)
    soft = -(labels * safe).sum(1) - rest * predicted_rest
    # Column 0 is the most likely token; if it is not in the head there is no hard label.
    hard = -safe[:, 0]
    return (soft + HARD_SHARE * hard).mean()


class Trainer:
    """Trains one student: its optimiser, checkpoints and progress."""

    def __init__(
        self, student: PreTrainedModel, head_ids: torch.Tensor, vocab_size: int, settings: DistillSettings, device: str
    ) -> None:
        self.student = move_to(student, device)
        self._settings, self._device = settings, torch.device(device)
        self._head_ids = head_ids.to(device)
        self._columns = torch.full((vocab_size,), -1, dtype=torch.long, device=device)
        self._columns[self._head_ids] = torch.arange(len(head_ids), device=device)
        learned = [parameter for parameter in student.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in learned if parameter.ndim > 1]
        plain = [parameter for parameter in learned if parameter.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.95), fused=True)
        self._checkpoint = settings.work / "checkpoint.pt"
        self._best = settings.work / "best.pt"
        self.report = TrainingReport()
        self._best_tokens_per_verify = 0.0

    def step(self, batch: TrainingBatch, rate: float) -> float:
        """Update the weights with one batch; returns its loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=has_bfloat16_matmul(self._device)):
            body: Any = self.student.base_model
            hidden = body(
                batch.ids.to(self._device), position_ids=batch.position_ids.to(self._device), use_cache=False
            ).last_hidden_state
            head: Any = self.student.get_output_embeddings()
            logits = head(hidden.flatten(0, 1)[batch.label_rows.to(self._device)])
        loss = distillation_loss(
            logits, self._columns[batch.top_ids.to(self._device)], batch.top_logps.to(self._device)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def train(self, samples: Sequence[Sample], held_out: Sequence[Sample]) -> TrainingReport:
        """Train until the budget is used up; the student then has the weights of its best checkpoint."""
        self._resume()
        settings, report = self._settings, self.report
        per_pass = sum(1 for _ in pack(samples, settings.row_tokens, settings.rows, f"{settings.seed}/0"))
        total = max(1, math.ceil(per_pass * settings.passes))
        clock = time.monotonic()
        next_evaluation = clock + settings.evaluate_seconds
        recent = report.losses[-1] if report.losses else 0.0
        with progress("training", total, "steps") as advance:
            advance(report.steps)
            for batch in self._batches(samples, report.steps, total):
                done = max(report.steps / total, report.seconds / settings.train_seconds)
                if done >= 1:
                    break
                loss = self.step(batch, settings.rate * rate_factor(done))
                recent = loss if report.steps == 0 else 0.95 * recent + 0.05 * loss
                report.steps += 1
                report.labelled_tokens += len(batch.label_rows)
                report.passes = report.steps / per_pass
                report.losses.append(round(loss, 4))
                now = time.monotonic()
                report.seconds, clock = report.seconds + now - clock, now
                advance(1, f"loss {recent:.3f}, {self._progress_note()}")
                if now >= next_evaluation:
                    self._evaluate_and_save(held_out)
                    clock = time.monotonic()
                    next_evaluation = clock + settings.evaluate_seconds
        self._evaluate_and_save(held_out)
        best = torch.load(self._best, map_location=self._device, weights_only=True)
        self.student.load_state_dict(best, strict=False)
        report.figures = evaluate(self.student.eval(), self._head_ids, held_out)
        return report

    def _batches(self, samples: Sequence[Sample], skip: int, total: int) -> Iterator[TrainingBatch]:
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

    def _progress_note(self) -> str:
        overall = self.report.figures.get("all")
        return f"held-out top-1 {overall.top['1']:.3f}, {overall.tokens_per_verify:.2f} a verify" if overall else ""

    def _evaluate_and_save(self, held_out: Sequence[Sample]) -> None:
        """Measure on the held-out samples and write a checkpoint."""
        self.report.figures = evaluate(self.student.eval(), self._head_ids, held_out)
        overall = self.report.figures["all"].tokens_per_verify
        if overall >= self._best_tokens_per_verify:
            self._best_tokens_per_verify = overall
            _save(trained_state(self.student), self._best)
        state = {
            "child": trained_state(self.student),  # the key of earlier checkpoints
            "optimizer": self._optimizer.state_dict(),
            "report": msgspec.json.encode(self.report).decode(),
            "best": self._best_tokens_per_verify,
        }
        _save(state, self._checkpoint)

    def _resume(self) -> None:
        if not self._checkpoint.exists():
            return
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        self.student.load_state_dict(state["child"], strict=False)
        self._optimizer.load_state_dict(state["optimizer"])
        self.report = msgspec.json.decode(state["report"], type=TrainingReport)
        self._best_tokens_per_verify = state["best"]


def rate_factor(done: float) -> float:
    """The share of the peak learning rate after a share `done` of the budget: linear warm-up, then cosine decay."""
    if done < WARM_UP:
        return (done + 1e-3) / WARM_UP
    return FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _save(state: object, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
