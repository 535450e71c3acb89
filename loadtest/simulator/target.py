"""The target of a simulated verifier: an engine, and how long its steps take in virtual time.

A live target computes every step, which takes the CPU seconds that the engine used. A recorded target replays texts,
and its steps follow a cost curve: measured with the live one, or computed for other hardware.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from edgedraft.runtime.packed_model import PackedModel
from edgedraft.wire import ModelCard, Sampling
from loadtest.simulator.playback import MAX_SESSIONS, PlaybackEngine
from loadtest.simulator.recorded_chats import RecordedChat
from verifier.engine.interface import Engine, Request, ScheduledSession
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine_loop import warm_up
from verifier.scheduling.step_costs import StepCosts

MEASURED_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MEASURED_ROUNDS = 3
SESSION_IDS = count(1)  # shared by all runs: no two sessions have the same


@dataclass(frozen=True)
class Target:
    """An engine with its clock.

    `cpu_clock` is read before and after work of the server; `step_seconds` receives what was scheduled and the
    difference, and returns the step's duration in virtual seconds.
    """

    engine: Engine
    cpu_clock: Callable[[], float]
    step_seconds: Callable[[Sequence[ScheduledSession], float], float]
    eos: tuple[int, ...]


def live_target(model: PackedModel, card: ModelCard) -> Target:
    """Steps take the CPU seconds of this thread, so the model must run in this thread alone."""
    engine = TransformersEngine(model, card.vocab_size, card.context_length, MAX_SESSIONS)
    return Target(engine, time.thread_time, lambda scheduled, elapsed: elapsed, card.eos)


def recorded_target(
    chats: Sequence[RecordedChat],
    step_seconds: Callable[[int], float],
    eos: tuple[int, ...],
    cached: bool = False,
) -> Target:
    """A step of n rows takes `step_seconds(n)`; with `cached` every prompt is in the prefix cache."""

    def seconds(scheduled: Sequence[ScheduledSession], elapsed: float) -> float:
        return step_seconds(sum(item.num_tokens + len(item.draft) for item in scheduled))

    return Target(PlaybackEngine(chats, cached), lambda: 0.0, seconds, eos)


def measure_steps(target: Target) -> StepCosts:
    """CPU seconds of a live target's steps by rows."""
    costs = StepCosts()
    for _ in range(MEASURED_ROUNDS):
        warm_up(target.engine, costs)
        for rows in MEASURED_ROWS:
            key = next(SESSION_IDS)
            prompt = tuple(range(1000, 1000 + rows))
            target.engine.open(Request(key, prompt, Sampling(temperature=0), 1, frozenset(), salt=f"{key}"))
            began = target.cpu_clock()
            target.engine.step([ScheduledSession(key, rows)])
            costs.record(rows, target.cpu_clock() - began)
            target.engine.close(key)
    return costs
