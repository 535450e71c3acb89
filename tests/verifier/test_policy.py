"""The scheduler's judgements, one by one."""

from __future__ import annotations

from edgedraft.tree import Slice
from verifier.policy import Pace, share_nodes, window

STEP = 0.04


def test_a_fresh_session_waits_one_step_at_most_and_a_proven_one_longer() -> None:
    assert Pace().patience(STEP, None, longest=1.0) == STEP
    proven = Pace().after_step(accepted=3, extra_seconds=0.0, plain_seconds=STEP)
    assert proven.patience(STEP, None, longest=1.0) == 4 * STEP
    assert proven.patience(STEP, None, longest=0.05) == 0.05


def test_it_does_not_wait_for_drafts_that_come_too_late() -> None:
    assert Pace().patience(STEP, draft_delay=0.03, longest=1.0) == STEP
    assert Pace().patience(STEP, draft_delay=0.05, longest=1.0) == 0.0


def test_waiting_and_wrong_drafts_cost_one_step_in_all() -> None:
    pace, spent = Pace(), 0.0
    for _ in range(100):
        if pace.may_check(STEP):
            pace, spent = pace.after_step(0, 0.01, STEP), spent + 0.01
        wait = pace.patience(STEP, None, longest=1.0)
        pace, spent = pace.after_wait(wait), spent + wait
    assert spent <= STEP + 1e-9


def test_what_was_won_is_not_hoarded() -> None:
    pace = Pace()
    for _ in range(100):
        pace = pace.after_step(5, 0.0, STEP)
    assert pace.patience(STEP, None, longest=10.0) <= 5 * STEP + 1e-9


def test_the_window_grows_with_acceptance_within_its_bounds() -> None:
    widths = [window(a / 20, 64) for a in range(21)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (8, 64)
    assert all(8 <= width <= 64 for width in widths)


def test_the_budget_goes_to_the_most_confident_paths() -> None:
    sure = Slice((1, 2, 3), (-1, 0, 1), (1, 2, 9), (1, 2, 3))
    unsure = Slice((4, 5), (-1, -1), (5, 20), (1, 1))
    assert share_nodes({1: sure, 2: unsure}, 3) == {1: 2, 2: 1}
    assert share_nodes({1: sure, 2: unsure}, 0) == {1: 0, 2: 0}
    assert share_nodes({1: sure, 2: unsure}, 99) == {1: 3, 2: 2}
