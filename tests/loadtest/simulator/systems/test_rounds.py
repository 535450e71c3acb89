"""Drafting in rounds, on a verifier with little KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, run
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.rounds import DraftRounds, RoundPlan
from loadtest.simulator.target import Target
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.scheduling.step_costs import StepCosts


def test_a_tree_without_kv_space_waits_for_the_next_step(
    chats: Sequence[RecordedChat],
    target: Target,
    steps: StepCosts,
    edge: EdgeProfile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete, calls = target.engine.step, count()

    def sometimes_full(scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return complete(scheduled if len(scheduled) < 2 or next(calls) % 3 else scheduled[:-1])

    monkeypatch.setattr(target.engine, "step", sometimes_full)
    system = DraftRounds(Clock(), target, steps, edge, RoundPlan(3, 6))
    assert run(system, chats, Load(3, tokens=60, warmup_tokens=6), seed=1).tokens >= 60
