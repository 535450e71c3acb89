"""The real draft model with memoized proposals: what it proposes at a position never changes.

A forward is started when a simulated agent begins it and finished when the device's profile says so; everything started
until then is computed in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from edge_agent.drafters.forwards.session_cache import common_prefix
from edge_agent.drafters.interface import NO_PROPOSAL, Drafter, DraftRequest, Proposal, merge
from edge_agent.drafters.loading import load_drafters
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.forward_size import MAX_REQUESTS_PER_SESSION
from edge_agent.settings import AgentSettings
from edgedraft.wire import Sampling
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.recordings import RecordedProposal
from verifier.scheduling.step_costs import StepCosts

BATCH_SIZES = (1, 4, 16, 32)
MEASURED_FORWARDS = 3
FILLER = 7  # a token id to draft behind when only the duration matters

# A chat's number, how many output tokens agree with its text, and the other ones behind them.
Position = tuple[int, int, tuple[int, ...]]


@dataclass(frozen=True)
class PendingForward:
    """A draft forward in progress: the model's position (None without the model), and prompt lookup's proposal."""

    position: Position | None
    lookup: Proposal


class DraftModel(Protocol):
    """What simulated systems draft with: this module's model, or an oracle (oracle_draft.py)."""

    def start_forward(
        self, chat: RecordedChat, request: DraftRequest, lookup: PromptLookupDrafter | None, model: bool = True
    ) -> PendingForward:
        """`lookup` is the agent's own prompt lookup, if it has one; without `model` only that one proposes."""
        ...

    def finish_forward(self, pending: PendingForward) -> Proposal: ...


class MemoizedDraftModel:
    """Proposals by position, each computed once. Not thread-safe."""

    def __init__(self, vocab_size: int, threads: int, kv_tokens: int = 1 << 15) -> None:
        """`vocab_size` is the target's."""
        drafters = load_drafters(
            AgentSettings.model_validate(
                {
                    "url": "-",
                    "key": "-",
                    "prompt_lookup": False,
                    "past_outputs": False,
                    "threads": threads,
                    "kv_tokens": kv_tokens,
                }
            )
        )
        self.description = drafters.description
        self._drafter: Drafter = drafters.new_drafter(vocab_size)
        self._computed: dict[Position, Proposal] = {}
        self._pending: dict[Position, DraftRequest] = {}
        self._open: set[int] = set()

    def start_forward(
        self, chat: RecordedChat, request: DraftRequest, lookup: PromptLookupDrafter | None, model: bool = True
    ) -> PendingForward:
        """`lookup` is the agent's own prompt lookup, if it has one; without `model` only that one proposes."""
        [looked_up] = lookup.propose([request]) if lookup else [NO_PROPOSAL]
        if not model:
            return PendingForward(None, looked_up)
        position = position_of(chat, request)
        if position not in self._computed:
            self._pending[position] = DraftRequest(
                chat.number + 1, request.context, request.num_committed, request.output_index, request.sampling
            )
        return PendingForward(position, looked_up)

    def finish_forward(self, pending: PendingForward) -> Proposal:
        if pending.position is None:
            return pending.lookup
        while pending.position not in self._computed:
            self._compute()
        return merge([pending.lookup, self._computed[pending.position]])

    @property
    def recorded(self) -> list[RecordedProposal]:
        """All proposals so far."""
        return [(*position, g.tokens, g.parents, g.probabilities) for position, g in self._computed.items()]

    def preload(self, recorded: Sequence[RecordedProposal]) -> None:
        """Adds proposals of an earlier run."""
        for number, right, wrong, tokens, parents, probabilities in recorded:
            self._computed[number, right, wrong] = Proposal(tokens, parents, probabilities)

    def _compute(self) -> None:
        """One forward over pending positions of each chat that has some: those with one committed text."""
        batch: dict[int, list[Position]] = {}
        for position, request in self._pending.items():
            chosen = batch.setdefault(position[0], [])
            same_text = not chosen or self._pending[chosen[0]].num_committed == request.num_committed
            if same_text and len(chosen) < MAX_REQUESTS_PER_SESSION:
                chosen.append(position)
        for number in batch.keys() - self._open:
            self._drafter.open(number + 1)
            self._open.add(number)
        positions = [position for chosen in batch.values() for position in chosen]
        proposals = self._drafter.propose([self._pending[position] for position in positions])
        for position, proposal in zip(positions, proposals, strict=True):
            if proposal.complete:
                self._computed[position] = proposal
                del self._pending[position]

    def measure_forwards(self) -> StepCosts:
        """CPU seconds of a forward by batch size, each session one token further than before."""
        costs = StepCosts()
        greedy = Sampling(temperature=0)
        for size in BATCH_SIZES:
            texts = {1_000_000 + i: [100 + i] * 16 for i in range(size)}
            for number in texts:
                self._drafter.open(number)
            seconds: list[float] = []
            for _ in range(MEASURED_FORWARDS + 1):
                began = time.thread_time()
                requests = [DraftRequest(number, text, len(text), 0, greedy) for number, text in texts.items()]
                proposals: Sequence[Proposal] = self._drafter.propose(requests)
                seconds.append(time.thread_time() - began)
                while not all(proposal.complete for proposal in proposals):
                    proposals = self._drafter.propose(requests)
                for text in texts.values():
                    text.append(FILLER)
            costs.record(size, median(seconds[1:]))
            for number in texts:
                self._drafter.close(number)
        return costs


def position_of(chat: RecordedChat, request: DraftRequest) -> Position:
    """The position of a draft request relative to the chat's recorded text."""
    output = tuple(request.context[len(chat.prompt) :])
    right = common_prefix(output, chat.text)
    return chat.number, right, output[right:]
