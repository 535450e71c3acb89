"""When a step begins, in small situations with their arithmetic. Times in the comments are in milliseconds."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from verifier.scheduling.step_start import SessionForecast, best_start

NOW, STEP = 100.0, 0.04
FLAT = np.array([0.0, *[3.0] * 24])  # the first frame of a draft is worth three tokens, and no later one adds any
# Of one session alone: its draft is missing, and comes 4 ms from now.
MISSING = SessionForecast(
    value=0.0,
    agent_value=0.0,
    frames=0.0,
    chance=1.0,
    next_frame_at=NOW + 0.004,
    interval=0.001,
    delay=0.004,
    curve=FLAT,
    kept_after_decode=0.9,
)
READY = replace(MISSING, value=3.0, agent_value=3.0, frames=8.0, next_frame_at=inf)


def wait(*forecasts: SessionForecast, rate: float, latest: float = inf) -> float:
    """How long the step is put off, in milliseconds."""
    return 1e3 * (best_start(forecasts, NOW, latest, rate, STEP) - NOW)


def test_it_waits_for_a_draft_that_is_near() -> None:
    # A wait after a miss brings 3 - 4 * 0.1 = 2.6. At once: no token, and that at the end. In 4 ms: 3 - 0.4, and 2.6.
    assert wait(MISSING, rate=100) == pytest.approx(4, abs=0.6)


def test_it_does_not_wait_for_one_that_comes_within_the_step_anyway() -> None:
    # In 30 ms: 3 - 30 * 0.1 = 0, and nothing by another such wait. At once: 3 - 0.9 left of the draft at the end.
    far = replace(MISSING, next_frame_at=NOW + 0.03, delay=0.03)
    assert wait(far, rate=100) == 0


def test_it_waits_longer_where_time_is_worth_less() -> None:
    # In 16 ms: 3 - 16 * rate, twice. At once 2.1, or such a wait after a miss: a wait pays below 0.12 tokens per ms.
    far = replace(MISSING, next_frame_at=NOW + 0.016, delay=0.016)
    assert wait(far, rate=120) == 0
    assert wait(far, rate=60) == pytest.approx(16, abs=1.5)


def test_one_of_many_is_not_waited_for() -> None:
    # Waiting 4 ms costs 15 ready sessions 4 * 1.5 = 6 tokens, and brings one session 3.
    assert wait(MISSING, *[READY] * 15, rate=1500) == 0
    # Where most are missing it brings 13 * 3 tokens for the same 6.
    assert wait(*[MISSING] * 13, *[READY] * 3, rate=1500) == pytest.approx(4, abs=0.6)


def test_a_growing_draft_is_waited_for_while_each_frame_adds_more_than_it_costs() -> None:
    # Frames of 1 ms add 1, 0.5, 0.25, ... tokens; at 0.1 per ms the fourth (0.125) still pays, the fifth (0.06) not.
    curve, total = [0.0], 0.0
    for frame in range(24):
        total += 0.5**frame
        curve.append(total)
    growing = replace(MISSING, next_frame_at=NOW + 0.001, delay=0.001, curve=np.array(curve))
    assert wait(growing, rate=100) == pytest.approx(4, abs=1)
    assert wait(growing, rate=700) == pytest.approx(1, abs=1), "the second frame (0.5) does not pay"


def test_a_draft_of_uncertain_tokens_is_expected_to_grow_less() -> None:
    curve = [0.0, 1.0, 1.9, 2.7, 3.4, *[4.0] * 20]
    young = replace(
        MISSING,
        value=1.0,
        agent_value=1.0,
        frames=1.0,
        next_frame_at=NOW + 0.002,
        interval=0.002,
        curve=np.array(curve),
    )
    assert wait(young, rate=200) > 0
    # Worth a fifth of others of its age: the next frames add 0.18, 0.16, ... at 0.4 for each.
    assert wait(replace(young, value=0.2, agent_value=0.2), rate=200) == 0


def test_a_young_draft_that_goes_on_growing_is_verified_at_once() -> None:
    # Frames of 1 token each 8 ms, up to 5: verified now, one token and at the end 5 - 1 - 0.9. In 8 ms, one token more
    # and one less at the end, for 8 * 0.1 tokens.
    young = replace(MISSING, value=1.0, agent_value=1.0, frames=1.0, next_frame_at=NOW + 0.008, interval=0.008)
    young = replace(young, curve=np.array([0.0, 1.0, 2.0, 3.0, 4.0, *[5.0] * 20]), delay=0.05)
    assert wait(young, rate=100) == 0
    # Where the next frame is the last, it is waited for: 2 - 8 * 0.06 against 1, and at the end 2 - 1 - 0.9.
    assert wait(replace(young, curve=np.array([0.0, 1.0, *[2.0] * 23])), rate=60) == pytest.approx(8, abs=1)
    # A near agent is soon back after a miss: what is left matters less than to start with all that it can draft.
    near = replace(young, interval=0.002, next_frame_at=NOW + 0.002, delay=0.002)
    assert wait(near, rate=100) == pytest.approx(8, abs=1)


def test_a_draft_that_may_not_contain_what_was_decoded_is_worth_less_waiting() -> None:
    late = replace(MISSING, next_frame_at=NOW + 0.012, delay=0.05, frames=-1.0)
    # Its first frame only covers the decoded token, so it is worth 3 tokens after 13 ms: 3 - 1.3 against 2.1 later.
    assert wait(late, rate=100) == 0


def test_a_draft_of_the_verifiers_own_makes_waiting_worth_less() -> None:
    assert wait(replace(MISSING, value=2.9), rate=100) == 0


def test_it_never_waits_longer_than_allowed_and_not_for_drafts_that_nobody_expects() -> None:
    assert wait(MISSING, rate=100, latest=NOW + 0.002) == 0, "the draft comes later than that"
    assert wait(MISSING, rate=100, latest=NOW) == 0
    assert wait(replace(MISSING, next_frame_at=inf), rate=100) == 0
    assert wait(MISSING, rate=0) == 0, "nothing is known yet"


def test_it_agrees_with_the_better_of_two_simulated_policies() -> None:
    """A session whose drafts are worth three tokens and are missing after every verify: wait always, or never.

    Waiting: 1 + 3 tokens per delay + step. Never: a decode step, whose token is one that the draft contains nine times
    in ten, then a verify step; so 1 + 1 + 3 - 0.9 tokens per two steps.
    """
    for delay in (0.002, 0.008, 0.016, 0.03, 0.045):
        waiting, never = 4 / (delay + STEP), (2 + 3 - 0.9) / (2 * STEP)
        if abs(waiting / never - 1) > 0.05:
            forecast = replace(MISSING, next_frame_at=NOW + delay, delay=delay)
            assert (wait(forecast, rate=max(waiting, never)) > 0) == (waiting > never), delay


def test_256_sessions_take_less_than_a_millisecond() -> None:
    dice = random.Random(1)
    sessions = [replace(MISSING, next_frame_at=NOW + dice.random() * 0.05, delay=0.01) for _ in range(256)]
    took: list[float] = []
    for _ in range(30):
        began = time.thread_time()
        best_start(sessions, NOW, NOW + 1, 1000, STEP)
        took.append(time.thread_time() - began)
    print(f"{1e3 * min(took):.2f} ms")
    assert min(took) < 0.01, "it is about 1 ms; ten times that on the slowest machine"
