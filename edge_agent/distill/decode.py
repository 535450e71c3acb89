"""Batched decoding with the target: many conversations at once, with the labels that the student learns from.

Each row of one static KV cache is a slot for one conversation; a slot that becomes free gets the next one, so few rows
of a forward are wasted (continuous batching). This module knows nothing of prompts or files.
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
class Conversation:
    """One conversation that the target continues: its token ids, and the labels of those that were generated."""

    kind: str
    messages: tuple[Message, ...]
    ids: list[int]
    temperature: float
    tokens_left: int
    user_turn: bool = False
    ended: bool = False
    # The indices in `ids` of generated tokens, and per such token its labels [top_k].
    positions: list[int] = field(default_factory=list)
    top_ids: list[torch.Tensor] = field(default_factory=list)
    top_logps: list[torch.Tensor] = field(default_factory=list)


class SlotCache(Cache):
    """A static KV cache whose rows have different lengths.

    Positions beyond a row's length hold stale data; the caller's attention mask must exclude them.
    """

    def __init__(self, slots: int, length: int) -> None:
        super().__init__(layers=[])
        self._slots, self._length = slots, length
        self._kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.rows = torch.empty(0, dtype=torch.long)
        self.positions = torch.empty(0, dtype=torch.long)
        self.visible = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values [rows, heads, tokens, head_dim]; returns those to attend to.

        A prefill attends to itself only, a decode step to its row of the cache.
        """
        if layer_idx not in self._kv:
            self._kv[layer_idx] = (self._allocate(key_states), self._allocate(value_states))
        keys, values = self._kv[layer_idx]
        new = key_states.shape[2]
        if new > 1:
            keys[self.rows, :, :new] = key_states
            values[self.rows, :, :new] = value_states
            return key_states, value_states
        keys[self.rows, :, self.positions] = key_states[:, :, 0]
        values[self.rows, :, self.positions] = value_states[:, :, 0]
        return keys[:, :, : self.visible], values[:, :, : self.visible]

    def _allocate(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros((self._slots, like.shape[1], self._length, like.shape[3]))


class BatchDecoder:
    """Decodes conversations with the target, whose linear layers it packs (edgedraft/runtime/packed_linear.py).

    `length` is the most that a row of the cache holds, in tokens.
    """

    def __init__(self, target: PreTrainedModel, stop: set[int], slots: int, length: int, top_k: int, seed: int) -> None:
        self._target, self._stop, self._slots, self._top_k = target, stop, slots, top_k
        self._cache_length = self._length = length
        head = target.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        self._head, self._head_weight = head, head.weight.detach()
        self._device = target.device
        self._noise = torch.Generator(self._device).manual_seed(seed)
        self._rows: list[Conversation | None] = [None] * slots
        self._waiting: deque[Conversation] = deque()
        self._cache = SlotCache(slots, length)
        self._check_head()
        pack_linears(target)

    @torch.inference_mode()
    def _check_head(self) -> None:
        """Raise ValueError if the target changes its logits after the head: labels are computed from the head alone."""
        ids = torch.zeros(1, 4, dtype=torch.long, device=self._device)
        logits = self._target(ids, use_cache=False).logits.float()
        head_logits = self._head(self._target.base_model(ids, use_cache=False).last_hidden_state).float()
        if not torch.allclose(logits, head_logits, rtol=0.02, atol=0.02):
            raise ValueError(f"{type(self._target).__name__} changes its logits after the head: not supported")

    @torch.inference_mode()
    def run(
        self,
        conversations: Iterator[Conversation],
        on_finished: Callable[[Conversation], Conversation | None],
        should_stop: Callable[[], bool],
        length: int,
    ) -> None:
        """Decode until `conversations` is exhausted or `should_stop()` is true.

        Conversations are ended before they have `length` tokens, prompt included; longer prompts are left out.
        `on_finished` is called with every conversation that ends; it may return another one, which is decoded next.
        """
        self._length = min(length, self._cache_length)
        while not should_stop():
            fresh = self._admit(conversations)
            if fresh:
                self._append_tokens(fresh, self._prefill(fresh), on_finished)
            active = [row for row, conversation in enumerate(self._rows) if conversation is not None]
            if active:
                self._append_tokens(active, self._decode()[active], on_finished)
            elif not fresh:
                return
        for conversation in self._rows:
            if conversation is not None:
                on_finished(conversation)

    def _admit(self, conversations: Iterator[Conversation]) -> list[int]:
        """Assign conversations to free rows, once an eighth of the rows is free: a prefill per row would be slow."""
        free = [row for row, conversation in enumerate(self._rows) if conversation is None]
        if len(free) < max(1, self._slots // 8):
            return []
        while len(self._waiting) < len(free) and (conversation := next(conversations, None)) is not None:
            self._waiting.append(conversation)
        fresh = []
        while free and self._waiting:
            conversation = self._waiting.popleft()
            if len(conversation.ids) + 1 < self._length:
                self._rows[free[-1]] = conversation
                fresh.append(free.pop())
        return fresh

    def _prefill(self, fresh: list[int]) -> torch.Tensor:
        prompts = [self._conversation(row).ids for row in fresh]
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
        tokens = torch.tensor(
            [[conversation.ids[-1] if conversation else 0] for conversation in self._rows], device=self._device
        )
        at = torch.tensor(
            [len(conversation.ids) - 1 if conversation else 0 for conversation in self._rows], device=self._device
        )
        self._cache.rows = torch.arange(self._slots, device=self._device)
        self._cache.positions, self._cache.visible = at, int(at.max()) + 1
        mask = torch.arange(self._cache.visible, device=self._device) <= at[:, None]
        hidden = self._target.base_model(
            tokens,
            attention_mask=mask[:, None, None],
            position_ids=at[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, 0]

    def _top_tokens(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The most likely tokens [rows, k] and their log-probabilities at temperature 1, in descending order."""
        logits = self._head(hidden)
        tokens = logits.topk(min(SAMPLED_FROM, logits.shape[1]), dim=1).indices
        total = logits.float().logsumexp(1, keepdim=True)
        # bfloat16 rounds logits to multiples of 1/8, which makes ties; the top tokens are scored again in float32.
        values = torch.einsum("nd,nkd->nk", hidden.float(), self._head_weight[tokens].float())
        values, order = values.sort(dim=1, descending=True)
        return tokens.gather(1, order), values - total

    def _append_tokens(
        self, rows: list[int], hidden: torch.Tensor, on_finished: Callable[[Conversation], Conversation | None]
    ) -> None:
        """Sample each row's next token, store its labels, and free the rows that ended."""
        conversations = [self._conversation(row) for row in rows]
        tokens, values = self._top_tokens(hidden)
        logps = values[:, : self._top_k].half().cpu()
        temperature = torch.tensor([conversation.temperature for conversation in conversations], device=self._device)[
            :, None
        ]
        noise = -torch.empty_like(values).exponential_(generator=self._noise).log()
        choice = (values + temperature * noise).argmax(1, keepdim=True)
        chosen = tokens.gather(1, choice)[:, 0].tolist()
        labels = tokens[:, : self._top_k].int().cpu()
        for i, (row, conversation) in enumerate(zip(rows, conversations, strict=True)):
            conversation.positions.append(len(conversation.ids))
            conversation.top_ids.append(labels[i])
            conversation.top_logps.append(logps[i])
            conversation.ids.append(chosen[i])
            conversation.tokens_left -= 1
            conversation.ended = chosen[i] in self._stop
            if conversation.ended or conversation.tokens_left <= 0 or len(conversation.ids) + 1 >= self._length:
                self._rows[row] = None
                more = on_finished(conversation)
                if more is not None:
                    self._waiting.appendleft(more)

    def _conversation(self, row: int) -> Conversation:
        conversation = self._rows[row]
        assert conversation is not None
        return conversation


def to_sample(conversation: Conversation) -> Sample:
    """A finished conversation as tensors."""
    return Sample(
        conversation.kind,
        torch.tensor(conversation.ids, dtype=torch.int32),
        torch.tensor(conversation.positions, dtype=torch.int32),
        torch.stack(conversation.top_ids),
        torch.stack(conversation.top_logps),
    )
