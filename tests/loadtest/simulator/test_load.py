"""Loads on simulated systems, whose texts must be the recorded ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from loadtest.simulator.clock import Clock
from loadtest.simulator.load import Load, System, run
from loadtest.simulator.playback import MAX_SESSIONS
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.recorded_chats import RecordedChat
from loadtest.simulator.systems.datacenter_speculation import BOTH, DatacenterSpeculation, SpeculationPlan
from loadtest.simulator.systems.edgedraft import DatacenterOnly, EdgeDraft
from loadtest.simulator.systems.rounds import DraftRounds, RoundPlan
from loadtest.simulator.target import Target
from loadtest.simulator.verifier import LIMITS
from tests.loadtest.conftest import STEP_SECONDS, TOKENS
from verifier.scheduling.step_costs import StepCosts


def systems(target: Target, steps: StepCosts, edge: EdgeProfile) -> dict[str, System]:
    forwards = StepCosts()
    forwards.record(1, 0.005)
    forwards.record(64, 0.02)
    plan = SpeculationPlan(BOTH, 3, 6)
    return {
        "datacenter_only": DatacenterOnly(Clock(), target, steps),
        "speculation": DatacenterSpeculation(Clock(), target, steps, forwards, edge.draft_model, plan),
        "rounds": DraftRounds(Clock(), target, steps, edge, RoundPlan(3, 6)),
        "edgedraft": EdgeDraft(Clock(), target, steps, edge, limits=LIMITS),
    }


@pytest.mark.parametrize("concurrency", [1, 3])
def test_every_system_produces_the_texts_and_speculation_takes_fewer_steps(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts, edge: EdgeProfile, concurrency: int
) -> None:
    load = Load(concurrency, tokens=60, warmup_tokens=6)
    found = {name: run(system, chats, load, seed=1) for name, system in systems(target, steps, edge).items()}
    assert target.engine.capacity().free_sessions == MAX_SESSIONS, "the next run finds an empty engine"
    for measured in found.values():
        assert measured.tokens >= 60
        assert measured.seconds > 0
        assert 0 < measured.meters.server_seconds <= measured.seconds + 2 * STEP_SECONDS
        assert measured.inter_token_quantile(0.5) <= measured.inter_token_quantile(0.99)
    plain = found["datacenter_only"]
    assert plain.meters.verifies == plain.tokens
    assert plain.meters.device_seconds == plain.meters.bytes_up == 0
    for name in ("speculation", "rounds", "edgedraft"):
        assert found[name].meters.verifies < found[name].tokens, name
        assert found[name].meters.accepted > 0, name
    for name in ("rounds", "edgedraft"):
        assert found[name].meters.bytes_up > 0
        assert found[name].meters.device_seconds > 0


def test_poisson_arrivals_are_served_as_they_come(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts
) -> None:
    load = Load(arrival_rate=1.0, tokens=1200, warmup_tokens=24)
    measured = run(DatacenterOnly(Clock(), target, steps), chats, load, seed=2)
    assert len(measured.first_tokens) > 50
    assert measured.tokens_per_second == pytest.approx(TOKENS, rel=0.3)


def test_arrivals_beyond_the_most_concurrent_ones_wait(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts
) -> None:
    load = Load(arrival_rate=20.0, tokens=300, warmup_tokens=24, max_concurrency=2)
    limited = run(DatacenterOnly(Clock(), target, steps), chats, load, seed=2)
    free = run(DatacenterOnly(Clock(), target, steps), chats, replace(load, max_concurrency=0), seed=2)
    assert limited.tokens_per_second < free.tokens_per_second
    assert max(limited.first_tokens) > max(free.first_tokens)
    assert limited.mean_inter_token < free.mean_inter_token


def test_every_chat_may_run_once_and_completely(
    chats: Sequence[RecordedChat], target: Target, steps: StepCosts
) -> None:
    measured = run(DatacenterOnly(Clock(), target, steps), chats, Load(1, once=True), seed=0)
    assert measured.tokens == sum(len(chat.text) for chat in chats)
    assert len(measured.first_tokens) == len(chats)


def test_another_text_ends_the_run(chats: Sequence[RecordedChat], target: Target, steps: StepCosts) -> None:
    other = [replace(chat, text=(*chat.text[:-1], chat.text[-1] + 1)) for chat in chats]
    with pytest.raises(AssertionError, match="differs"):
        run(DatacenterOnly(Clock(), target, steps), other, Load(1, tokens=60, warmup_tokens=0), seed=1)
