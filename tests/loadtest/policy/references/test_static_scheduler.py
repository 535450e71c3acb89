"""Static step-start rules on a scripted clock."""

from __future__ import annotations

from edgedraft.wire import Draft, Open, Sampling, confidence_byte
from loadtest.policy.references.simple_scheduler import count_for_rate
from loadtest.policy.references.static_scheduler import StaticPolicy, StaticScheduler
from loadtest.simulator.playback import PlaybackEngine
from loadtest.simulator.recorded_chats import RecordedChat

SAMPLING = Sampling(temperature=0)
CHATS = [RecordedChat(i, "", "", (i,), SAMPLING, 9, tuple(range(10, 19))) for i in range(3)]
STEP = 0.04
LIKELY = confidence_byte(0.9)


def _scheduler(policy: StaticPolicy, sessions: int = 2) -> StaticScheduler:
    """Sessions 0, 1, ... whose prompts are computed."""
    engine = PlaybackEngine(CHATS, cached=True)
    scheduler = StaticScheduler(engine, policy, window=16)
    scheduler.engine = engine  # type: ignore[attr-defined]
    scheduler.step_costs.record(1, STEP)
    scheduler.step_costs.record(64, STEP)
    for key in range(sessions):
        scheduler.open(key, Open(key, [key], SAMPLING, 9, [], 16), 0.0)
    return scheduler


def _step(scheduler: StaticScheduler, now: float) -> tuple[list[int], int]:
    """Runs a step that starts at `now`; returns its sessions and its draft nodes."""
    scheduled = scheduler.schedule(now).scheduled
    results = scheduler.engine.step(scheduled)  # type: ignore[attr-defined]
    scheduler.update(scheduled, results, now, now + STEP)
    return [item.session for item in scheduled], sum(len(item.draft) for item in scheduled)


def _draft(scheduler: StaticScheduler, key: int, at: int, tokens: list[int]) -> None:
    """A chain of the right tokens behind `at` output tokens."""
    scheduler.add_draft(key, Draft(key, 1, at, 1, tokens, list(range(len(tokens))), bytes([LIKELY]) * len(tokens)), 0.0)


def test_a_step_starts_the_wait_after_the_last_commit() -> None:
    scheduler = _scheduler(StaticPolicy(wait=0.01, groups=1, nodes=8))
    assert _step(scheduler, 0.0) == ([0, 1], 0)
    output = scheduler.schedule(0.045)
    assert (output.scheduled, output.wake_at) == ([], STEP + 0.01)
    assert _step(scheduler, 0.05)[0] == [0, 1]


def test_enough_nodes_of_every_session_end_the_wait() -> None:
    scheduler = _scheduler(StaticPolicy(wait=0.01, groups=1, nodes=8, enough=2))
    _step(scheduler, 0.0)
    _draft(scheduler, 0, 1, [11, 12])
    assert not scheduler.schedule(0.041).scheduled
    _draft(scheduler, 1, 1, [11, 12])
    assert _step(scheduler, 0.041) == ([0, 1], 4)


def test_groups_take_turns_and_each_waits_for_its_own_commit() -> None:
    scheduler = _scheduler(StaticPolicy(wait=0.01, groups=2, nodes=8))
    assert [_step(scheduler, i * STEP)[0] for i in range(4)] == [[0], [1], [0], [1]]
    alone = _scheduler(StaticPolicy(wait=0.01, groups=2, nodes=8), sessions=1)
    _step(alone, 0.0)
    assert alone.schedule(STEP).wake_at == STEP + 0.01


def test_a_prompt_ends_the_wait() -> None:
    scheduler = _scheduler(StaticPolicy(wait=0.01, groups=1, nodes=8), sessions=1)
    _step(scheduler, 0.0)
    scheduler.open(5, Open(5, [2], SAMPLING, 9, [10, 11], 16), STEP)
    scheduler._sessions[5].num_uncomputed = 3  # pyright: ignore[reportPrivateUsage]
    assert [item.session for item in scheduler.schedule(STEP).scheduled] == [0, 5]


def test_no_more_nodes_than_allowed_and_none_that_cost_more_than_they_promise() -> None:
    scheduler = _scheduler(StaticPolicy(wait=0.0, groups=1, nodes=3), sessions=1)
    _step(scheduler, 0.0)
    _draft(scheduler, 0, 1, [11, 12, 13, 14, 15])
    assert _step(scheduler, STEP) == ([0], 3)
    costs = {1: 1.0, 2: 1.0, 3: 1.6, 4: 1.7}.__getitem__
    assert count_for_rate([0.9, 0.5, 0.4], 1, 1, costs, None) == 1  # 1.9 tokens a second, then 1.5 and 1.65
    assert count_for_rate([0.9, 0.5, 0.4], 1, 1, costs, 0.5) == 3  # by a rate of 0.5: 0.5, 1.4, 1.6 and 1.95
