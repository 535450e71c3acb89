"""The scheduler's rules, one by one."""

from __future__ import annotations

import pytest

from verifier.scheduling.policy import (
    LatencyBudget,
    cost_beside_prefill,
    draft_window,
    prompt_chunk,
    prompt_token_budget,
    select_draft_nodes,
)

STEP = 0.04


def test_a_new_session_waits_half_a_step_at_most_and_one_that_saved_time_longer() -> None:
    assert LatencyBudget(1.0).max_draft_wait(STEP, limit=1.0) == STEP / 2
    proven = LatencyBudget(1.0).after_step(accepted=3, extra_seconds=0.0, plain_seconds=STEP)
    assert proven.max_draft_wait(STEP, limit=1.0) == pytest.approx(3.5 * STEP)
    assert proven.max_draft_wait(STEP, limit=0.05) == 0.05


def test_only_a_share_of_the_saved_time_is_spent_on_waiting() -> None:
    proven = LatencyBudget(0.5).after_step(accepted=3, extra_seconds=STEP, plain_seconds=STEP)
    assert proven.max_draft_wait(STEP, limit=1.0) == pytest.approx(1.5 * STEP)
    assert LatencyBudget(0.5).after_step(0, STEP / 2, STEP).saved_seconds == pytest.approx(-STEP / 2), (
        "a loss counts in full"
    )


def test_a_wait_without_a_draft_leaves_budget_to_verify_a_late_one() -> None:
    waited = LatencyBudget(1.0).after_wait(LatencyBudget(1.0).max_draft_wait(STEP, limit=1.0))
    assert waited.max_draft_wait(STEP, limit=1.0) == 0.0
    assert waited.may_verify_drafts(STEP / 2, STEP)
    assert not waited.may_verify_drafts(0.6 * STEP, STEP)


def test_a_prompt_in_the_step_does_not_make_nodes_look_cheap() -> None:
    def seconds(rows: int) -> float:
        return STEP + 0.002 * rows

    chances = {1: [0.5, 0.2], 2: [0.4, 0.1]}
    alone = select_draft_nodes(chances, 16, 16, 8, seconds)
    assert select_draft_nodes(chances, 16, 16, 8, cost_beside_prefill(200, 16, seconds)) == alone
    assert select_draft_nodes(chances, 216, 16, 8, seconds) != alone, "judged by the complete step it would"


def test_a_step_beside_a_very_long_prompt_still_takes_its_own_time() -> None:
    """It was rounded to nothing, and the engine's thread ended by dividing by it."""

    def seconds(rows: int) -> float:
        return 1e-4 if rows <= 1 else 1e13

    assert cost_beside_prefill(400, 0, seconds)(0) == 1e-4
    assert select_draft_nodes({1: []}, 0, 1, 8, cost_beside_prefill(400, 0, seconds)) == {1: []}


def test_waiting_and_wrong_drafts_cost_one_step_in_total() -> None:
    budget, spent = LatencyBudget(1.0), 0.0
    for _ in range(100):
        if budget.may_verify_drafts(0.01, STEP):
            budget, spent = budget.after_step(0, 0.01, STEP), spent + 0.01
        wait = budget.max_draft_wait(STEP, limit=1.0)
        budget, spent = budget.after_wait(wait), spent + wait
    assert spent <= STEP + 1e-9


def test_saved_time_is_bounded() -> None:
    budget = LatencyBudget(1.0)
    for _ in range(100):
        budget = budget.after_step(5, 0.0, STEP)
    assert budget.max_draft_wait(STEP, limit=10.0) <= 5 * STEP + 1e-9


def test_the_window_follows_what_is_verified_within_its_bounds() -> None:
    assert [draft_window(nodes, 128) for nodes in (0.0, 1.0, 3.0, 100.0)] == [16, 32, 64, 128]
    assert draft_window(0.0, 4) == 8


def stairs(rows: int) -> float:
    """Cheap up to four rows, expensive beyond."""
    return 0.03 if rows <= 4 else 0.01 * rows


def test_nodes_are_selected_while_they_are_worth_their_time() -> None:
    # Two plain rows commit 2 tokens in 30 ms, so 10 ms are worth 0.67 tokens, and a node that takes them must promise
    # 1.4 times that, 0.93. Rows 3 and 4 are free.
    sure, unsure = [0.9, 0.8, 0.7], [0.3, 0.02]
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, stairs) == {1: [0, 1], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 1, stairs) == {1: [0], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 0, stairs) == {1: [], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, lambda _: 0.03) == {1: [0, 1, 2], 2: [0, 1]}
    # In a step of 200 rows 10 ms are worth 0.01 tokens.
    assert select_draft_nodes({1: sure, 2: unsure}, 200, 2, 99, stairs) == {1: [0, 1, 2], 2: [0, 1]}


def test_a_cost_step_is_passed_when_the_nodes_beyond_it_pay() -> None:
    def steep(rows: int) -> float:
        return 0.03 if rows == 1 else 0.04

    # 10 ms cost 1.4 * 0.33 = 0.47 tokens: no node alone pays, all together do.
    assert select_draft_nodes({1: [0.3, 0.25, 0.2]}, 1, 1, 99, steep) == {1: [0, 1, 2]}
    assert select_draft_nodes({1: [0.3]}, 1, 1, 99, steep) == {1: []}


def test_time_is_worth_what_the_engine_commits_in_the_long_run() -> None:
    def seconds(rows: int) -> float:
        return 0.03 + 0.002 * rows

    # A row takes 2 ms. By what this step commits (1 token in 32 ms) it costs 1.4 * 0.06, at 200 tokens/s 1.4 * 0.4.
    assert select_draft_nodes({1: [0.5, 0.3]}, 1, 1, 99, seconds) == {1: [0, 1]}
    assert select_draft_nodes({1: [0.5, 0.3]}, 1, 1, 99, seconds, rate=200) == {1: []}


def test_prompts_take_the_room_that_steps_have_to_spare() -> None:
    def seconds(rows: int) -> float:
        return 0.04 if rows <= 96 else 0.04 * rows / 96

    # 160 rows beside 16 would make a step of 40 ms last 73: 33 ms at 400 tokens/s are 13 tokens. In two parts of 80
    # rows no step is longer, and the prompt's own session loses one of 40 ms at 400 / 16 tokens/s, 1 token.
    assert prompt_chunk(160, 1, 16, 16, 400, seconds) == 80
    # Beside 96 rows there is no room: all at once.
    assert prompt_chunk(160, 1, 96, 16, 400, seconds) == 160
    # A short one is not split below the least part.
    assert prompt_chunk(10, 1, 90, 16, 400, seconds) == 16


def test_prompts_add_no_more_than_their_delay_but_always_make_progress() -> None:
    assert prompt_token_budget(1, 500, 0.4, lambda rows: 0.01 * rows) == 40
    assert prompt_token_budget(1, 500, 0.01, lambda rows: 0.01 * rows) == 16
    assert prompt_token_budget(1, 30, 9.0, lambda rows: 0.01 * rows) == 30
    assert prompt_token_budget(0, 500, float("inf"), lambda rows: 0.01 * rows) == 500
    assert prompt_token_budget(64, 0, 1.0, lambda rows: 0.01 * rows) == 0
