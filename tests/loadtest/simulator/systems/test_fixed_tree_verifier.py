"""The verifier of the systems with fixed trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtest.simulator.load import Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.fixed_tree_verifier import FixedTreeVerifier
from loadtest.simulator.target import SESSION_IDS, Target
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.scheduling.step_costs import StepCosts


def test_a_prompt_with_one_uncomputed_token_left_is_completed(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a prompt may leave one token, and then the session does not draft yet."""
    complete = target.engine.step
    verifier = FixedTreeVerifier(target, steps, Meters())
    chat = chats[0]
    verifier.open(Stream(next(SESSION_IDS), chat, 0, 0, 0.0, "new"))
    [session] = verifier.sessions.values()

    def all_but_one(scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        left = session.num_uncomputed
        return complete([replace(item, num_tokens=left - 1) if left > 1 else item for item in scheduled])

    generated: list[int] = []
    monkeypatch.setattr(target.engine, "step", all_but_one)
    for _ in range(2):
        stepped = verifier.step({})
        assert stepped
        verifier.update(stepped[0], lambda stream, tokens: generated.extend(tokens))
    assert generated == list(chat.text[:1])
    verifier.clear()
