"""The server's side of time: the real engine, whose CPU seconds are what a step takes, or one that is played back.

The engine that is played back says recorded texts and takes what a cost curve says: measured with the real one in
the same run, or computed for a machine that is not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import DraftSlice
from edgedraft.wire import ModelCard, Sampling
from loadtest.seed.chats import Chat
from verifier.engine.interface import Capacity, Engine, Request, ScheduledSession, StepResult
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.step_costs import StepCosts

MAX_SESSIONS = 1024
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SIZES_AGAIN = 3
KEYS = count(1)  # no two sessions of a run share a number


@dataclass(frozen=True)
class Target:
    """An engine, and how long work on it takes.

    `spent` is read before and after a piece of the server's own work; `seconds` is told the work and the difference.
    """

    engine: Engine
    spent: Callable[[], float]
    seconds: Callable[[Sequence[ScheduledSession], float], float]
    eos: tuple[int, ...]


def real(model: PackedModel, card: ModelCard) -> Target:
    """Steps take the CPU seconds of this thread; so the model must run in it alone."""
    engine = TransformersEngine(model, card.vocab_size, card.context_length, MAX_SESSIONS)
    return Target(engine, time.thread_time, lambda work, elapsed: elapsed, card.eos)


def played(
    chats: Sequence[Chat],
    step: Callable[[int], float],
    eos: tuple[int, ...],
    cached: bool = False,
) -> Target:
    """Steps take what `step` says of their rows; `cached` tells whether every prompt is found computed."""

    def seconds(work: Sequence[ScheduledSession], elapsed: float) -> float:
        return step(sum(item.num_tokens + len(item.draft) for item in work))

    return Target(Playback(chats, cached), lambda: 0.0, seconds, eos)


def measured_steps(target: Target) -> StepCosts:
    """What steps of the real engine take, by their rows."""
    costs = StepCosts()
    for _ in range(SIZES_AGAIN):
        warm_up(target.engine, costs)
        for rows in SIZES:
            key = next(KEYS)
            request = Request(
                key, tuple(range(1000, 1000 + rows)), Sampling(temperature=0), 1, frozenset(), salt=f"{key}"
            )
            target.engine.open(request)
            began = target.spent()
            target.engine.step([ScheduledSession(key, rows)])
            costs.record(rows, target.spent() - began)
            target.engine.close(key)
    return costs


class Playback:
    """An engine that says the recorded texts; a draft is right as far as it agrees with them."""

    supports_trees = True
    vocab_size = 1 << 31
    context_length = 1 << 20

    def __init__(self, chats: Sequence[Chat], cached: bool = False) -> None:
        self._cached = cached
        self._texts = {(chat.prompt, chat.sampling.seed): chat.text for chat in chats}
        self._sessions: dict[int, _Said] = {}

    def precompile(self, sampling: Sampling) -> None:
        pass

    def validate(self, request: Request) -> None:
        pass

    def open(self, request: Request) -> int:
        text = self._texts[request.prompt, request.sampling.seed]
        rows = len(request.prompt) + len(request.committed)
        unseen = rows if request.salt.startswith("new") and not self._cached else 1
        said = _Said(text, len(request.committed), unseen, request.eos)
        self._sessions[request.session] = said
        return said.unseen

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._progress(item) for item in scheduled]

    def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    def capacity(self) -> Capacity:
        return Capacity(MAX_SESSIONS - len(self._sessions), 1 << 20, 1 << 20)

    def _progress(self, item: ScheduledSession) -> StepResult:
        said = self._sessions[item.session]
        if item.num_tokens < said.unseen:
            said.unseen -= item.num_tokens
            return StepResult(item.session, (), said.unseen)
        made = verified(item.draft, said.text, said.count)
        said.count += len(made)
        said.unseen = 1
        finish = None
        if said.count == len(said.text):
            finish = "stop" if said.text[-1] in said.eos else "length"
        depth = max(item.draft.depths, default=0)
        right = len(made) - 1 if len(item.draft) else 0
        return StepResult(item.session, tuple(made), 1, len(item.draft), depth, right, finish=finish)


@dataclass
class _Said:
    text: Sequence[int]
    count: int
    unseen: int
    eos: frozenset[int]


def verified(tree: DraftSlice, text: Sequence[int], said: int) -> Sequence[int]:
    """The tokens that a verify commits behind text[:said]: the tree's right ones, and the one after them."""
    node, right = -1, 0
    while said + right < len(text):
        below = (i for i, parent in enumerate(tree.parents) if parent == node and tree.tokens[i] == text[said + right])
        node = next(below, -2)
        if node == -2:
            break
        right += 1
    return text[said : said + right + 1]
