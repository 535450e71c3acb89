"""Recorded chats, a draft model and step costs that the simulator's tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.profiles import DeviceProfile, EdgeProfile, LinkProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.target import Target, recorded_target
from loadtest.workloads.trace import GREEDY, load_trace
from verifier.scheduling.step_costs import StepCosts

TOKENS = 12
VOCAB_SIZE = 49152
STEP_SECONDS = 0.03
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def step_seconds(rows: int) -> float:
    return STEP_SECONDS + 0.001 * rows


@pytest.fixture(scope="session")
def chats() -> list[RecordedChat]:
    """Four chats of the trace, cut to TOKENS tokens."""
    return [
        RecordedChat(i, "chat", "", tuple(c.prompt), GREEDY, min(TOKENS, len(c.text)), tuple(c.text[:TOKENS]))
        for i, c in enumerate(load_trace()[:4])
    ]


@pytest.fixture(scope="session")
def draft_model() -> MemoizedDraftModel:
    return MemoizedDraftModel(VOCAB_SIZE, threads=1, kv_tokens=4096)


@pytest.fixture
def edge(draft_model: MemoizedDraftModel) -> EdgeProfile:
    return EdgeProfile(DeviceProfile("desktop", 0.002, "made up"), LinkProfile("near", 0.01), draft_model)


@pytest.fixture
def target(chats: Sequence[RecordedChat]) -> Target:
    return recorded_target(chats, step_seconds, ())


@pytest.fixture
def steps() -> StepCosts:
    return step_costs(step_seconds)


def step_costs(seconds: Callable[[int], float]) -> StepCosts:
    costs = StepCosts()
    for rows in ROWS:
        costs.record(rows, seconds(rows))
    return costs
