"""The target at work: many conversations decoded at once, each with the labels that a child learns from.

The target decodes in slots: each row of one static KV cache belongs to one conversation, and a row that ends is
given the next one, so a step carries no finished rows. This file knows nothing of prompts or of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from edge_agent.distill.prompts import Message
from edge_agent.distill.samples import Sample
from edgedraft.runtime.packed_linear import pack_linears

SAMPLED_FROM = 64


@dataclass(slots=True)
class Job:
    """One conversation on its way through the target: its tokens so far and the labels of those it generated."""

    kind: str
    messages: tuple[Message, ...]
    ids: list[int]
    temperature: float
    room: int
    user_turn: bool = False
    ended: bool = False
    # Positions in `ids` that were generated, and one row of labels for each.
    positions: list[int] = field(default_factory=list)
    top_ids: list[torch.Tensor] = field(default_factory=list)
    top_logps: list[torch.Tensor] = field(default_factory=list)


class SlotCache(Cache):
    """A static KV cache whose rows are at different lengths. Positions past a row's length hold rubbish; the caller
    masks them."""

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(layers=[])
        self._slots, self._length = slots, length
        self._kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.rows = torch.empty(0, dtype=torch.long)
        self.at = torch.empty(0, dtype=torch.long)
        self.visible = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new keys and values; a prefill attends to itself only, a decode step to the whole row."""
        if layer_idx not in self._kv:
            self._kv[layer_idx] = (self._room(key_states), self._room(value_states))
        keys, values = self._kv[layer_idx]
        new = key_states.shape[2]
        if new > 1:
            keys[self.rows, :, :new] = key_states
            values[self.rows, :, :new] = value_states
            return key_states, value_states
        keys[self.rows, :, self.at] = key_states[:, :, 0]
        values[self.rows, :, self.at] = value_states[:, :, 0]
        return keys[:, :, : self.visible], values[:, :, : self.visible]

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((self._slots, like.shape[1], self._length, like.shape[3]))


class Generator:
    """Runs jobs through the target, whose linear layers it packs (edgedraft/runtime/packed_linear.py).

    Conversations end before `length` tokens, answers included.
    """

    def __init__(self, target: PreTrainedModel, stop: set[int], slots: int, length: int, top_k: int, seed: int) -> None:
        self._target, self._stop, self._slots, self._length, self._top_k = target, stop, slots, length, top_k
        head = target.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        self._head, self._head_weight = head, head.weight.detach()
        self._device = target.device
        self._noise = torch.Generator(self._device).manual_seed(seed)
        self._rows: list[Job | None] = [None] * slots
        self._waiting: deque[Job] = deque()
        self._cache = SlotCache(slots, length)
        self._check()
        pack_linears(target)

    @torch.inference_mode()
    def _check(self) -> None:
        """The labels come from the bare head; a target that scales or caps its logits after it cannot be learned so."""
        ids = torch.zeros(1, 4, dtype=torch.long, device=self._device)
        whole = self._target(ids, use_cache=False).logits.float()
        bare = self._head(self._target.base_model(ids, use_cache=False).last_hidden_state).float()
        if not torch.allclose(whole, bare, rtol=0.02, atol=0.02):
            raise ValueError(f"{type(self._target).__name__} changes its logits after the head: not supported")

    @torch.inference_mode()
    def run(self, jobs: Iterator[Job], finished: Callable[[Job], Job | None], over: Callable[[], bool]) -> None:
        """Decode until the jobs end or `over` says so. `finished` gets every job and may return one to go on with."""
        while not over():
            fresh = self._admit(jobs)
            if fresh:
                self._take(fresh, self._prefill(fresh), finished)
            active = [row for row, job in enumerate(self._rows) if job is not None]
            if active:
                self._take(active, self._decode()[active], finished)
            elif not fresh:
                return
        for job in self._rows:
            if job is not None:
                finished(job)

    def _admit(self, jobs: Iterator[Job]) -> list[int]:
        """Give free rows their next jobs; many at a time, as a prefill for each row that ends would be wasteful."""
        free = [row for row, job in enumerate(self._rows) if job is None]
        if len(free) < max(1, self._slots // 8):
            return []
        while len(self._waiting) < len(free) and (job := next(jobs, None)) is not None:
            self._waiting.append(job)
        fresh = []
        while free and self._waiting:
            job = self._waiting.popleft()
            if len(job.ids) + 1 < self._length:
                self._rows[free[-1]] = job
                fresh.append(free.pop())
        return fresh

    def _prefill(self, fresh: list[int]) -> torch.Tensor:
        prompts = [self._job(row).ids for row in fresh]
        width = max(2, *map(len, prompts))
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self._device)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self._device)
        causal = torch.ones(1, 1, width, width, dtype=torch.bool, device=self._device).tril()
        self._cache.rows = torch.tensor(fresh, device=self._device)
        hidden = self._target.base_model(
            ids, attention_mask=causal, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        return hidden[torch.arange(len(fresh), device=self._device), last]

    def _decode(self) -> torch.Tensor:
        tokens = torch.tensor([[job.ids[-1] if job else 0] for job in self._rows], device=self._device)
        at = torch.tensor([len(job.ids) - 1 if job else 0 for job in self._rows], device=self._device)
        self._cache.rows = torch.arange(self._slots, device=self._device)
        self._cache.at, self._cache.visible = at, int(at.max()) + 1
        mask = torch.arange(self._cache.visible, device=self._device) <= at[:, None]
        hidden = self._target.base_model(
            tokens,
            attention_mask=mask[:, None, None],
            position_ids=at[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, 0]

    def _best(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable tokens and their log-probabilities, in order."""
        logits = self._head(hidden)
        tokens = logits.topk(min(SAMPLED_FROM, logits.shape[1]), dim=1).indices
        total = logits.float().logsumexp(1, keepdim=True)
        # bfloat16 rounds logits to steps of an eighth, which makes ties; the short list is scored again without it.
        values = torch.einsum("nd,nkd->nk", hidden.float(), self._head_weight[tokens].float())
        values, order = values.sort(dim=1, descending=True)
        return tokens.gather(1, order), values - total

    def _take(self, rows: list[int], hidden: torch.Tensor, finished: Callable[[Job], Job | None]) -> None:
        """Choose each row's next token, keep its labels, and retire the rows that ended."""
        jobs = [self._job(row) for row in rows]
        tokens, values = self._best(hidden)
        logps = values[:, : self._top_k].half().cpu()
        temperature = torch.tensor([job.temperature for job in jobs], device=self._device)[:, None]
        noise = -torch.empty_like(values).exponential_(generator=self._noise).log()
        choice = (values + temperature * noise).argmax(1, keepdim=True)
        chosen = tokens.gather(1, choice)[:, 0].tolist()
        labels = tokens[:, : self._top_k].int().cpu()
        for i, (row, job) in enumerate(zip(rows, jobs, strict=True)):
            job.positions.append(len(job.ids))
            job.top_ids.append(labels[i])
            job.top_logps.append(logps[i])
            job.ids.append(chosen[i])
            job.room -= 1
            job.ended = chosen[i] in self._stop
            if job.ended or job.room <= 0 or len(job.ids) + 1 >= self._length:
                self._rows[row] = None
                more = finished(job)
                if more is not None:
                    self._waiting.appendleft(more)

    def _job(self, row: int) -> Job:
        job = self._rows[row]
        assert job is not None
        return job


def sample(job: Job) -> Sample:
    """The finished job as tensors."""
    return Sample(
        job.kind,
        torch.tensor(job.ids, dtype=torch.int32),
        torch.tensor(job.positions, dtype=torch.int32),
        torch.stack(job.top_ids),
        torch.stack(job.top_logps),
    )
