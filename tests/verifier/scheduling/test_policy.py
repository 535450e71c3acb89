"""The scheduler's rules, one by one."""

from __future__ import annotations

import random

import pytest

from verifier.scheduling.draft_arrivals import DraftArrivals
from verifier.scheduling.policy import (
    LatencyBudget,
    cost_beside_prefill,
    draft_window,
    prompt_token_budget,
    select_draft_nodes,
    should_wait_for_draft,
    verification_pays,
)

STEP = 0.04


def test_a_new_session_waits_half_a_step_at_most_and_one_that_saved_time_longer() -> None:
    assert LatencyBudget(1.0).max_draft_wait(STEP, None, limit=1.0) == STEP / 2
    proven = LatencyBudget(1.0).after_step(accepted=3, extra_seconds=0.0, plain_seconds=STEP)
    assert proven.max_draft_wait(STEP, None, limit=1.0) == pytest.approx(3.5 * STEP)
    assert proven.max_draft_wait(STEP, None, limit=0.05) == 0.05


def test_only_a_share_of_the_saved_time_is_spent_on_waiting() -> None:
    proven = LatencyBudget(0.5).after_step(accepted=3, extra_seconds=STEP, plain_seconds=STEP)
    assert proven.max_draft_wait(STEP, None, limit=1.0) == pytest.approx(1.5 * STEP)
    assert LatencyBudget(0.5).after_step(0, STEP / 2, STEP).saved_seconds == pytest.approx(-STEP / 2), (
        "a loss counts in full"
    )


def test_it_does_not_wait_for_drafts_that_arrive_too_late() -> None:
    assert LatencyBudget(1.0).max_draft_wait(STEP, draft_delay=0.015, limit=1.0) == STEP / 2
    assert LatencyBudget(1.0).max_draft_wait(STEP, draft_delay=0.025, limit=1.0) == 0.0


def test_a_wait_without_a_draft_leaves_budget_to_verify_a_late_one() -> None:
    waited = LatencyBudget(1.0).after_wait(LatencyBudget(1.0).max_draft_wait(STEP, None, limit=1.0))
    assert waited.max_draft_wait(STEP, None, limit=1.0) == 0.0
    assert waited.may_verify_drafts(STEP)


def test_it_waits_for_drafts_only_where_verification_would_pay() -> None:
    def spare(rows: int) -> float:
        return 0.03

    def none_to_spare(rows: int) -> float:
        return 0.01 * rows

    assert verification_pays(0.5, 16, spare)
    assert verification_pays(0.5, 1, stairs)
    assert not verification_pays(0.5, 16, none_to_spare)
    assert not verification_pays(0.02, 16, spare)


def test_a_prompt_in_the_step_does_not_make_nodes_look_cheap() -> None:
    def seconds(rows: int) -> float:
        return STEP + 0.002 * rows

    chances = {1: [0.5, 0.2], 2: [0.4, 0.1]}
    alone = select_draft_nodes(chances, 16, 16, 8, seconds)
    assert select_draft_nodes(chances, 16, 16, 8, cost_beside_prefill(200, 16, seconds)) == alone
    assert select_draft_nodes(chances, 216, 16, 8, seconds) != alone, "judged by the complete step it would"


def test_it_waits_for_a_missing_draft_if_that_is_faster() -> None:
    arrivals = DraftArrivals(draft_ready_after_decode=0.6, draft_ready_after_verify=0.6, tokens_per_verify=1.9)
    soon, late = STEP / 10, STEP / 2
    assert should_wait_for_draft(arrivals, soon, 1.0, plain_seconds=STEP, verify_seconds=1.3 * STEP)
    assert not should_wait_for_draft(arrivals, late, 1.0, plain_seconds=STEP, verify_seconds=1.3 * STEP)
    assert not should_wait_for_draft(arrivals, soon, 1.6, plain_seconds=STEP, verify_seconds=1.3 * STEP), (
        "the verifier has a draft of its own meanwhile"
    )
    rarely_ready = DraftArrivals(draft_ready_after_decode=0.1, draft_ready_after_verify=0.6, tokens_per_verify=1.9)
    assert should_wait_for_draft(rarely_ready, late, 1.0, plain_seconds=STEP, verify_seconds=1.3 * STEP), (
        "after a decode step there would rarely be a draft either"
    )


def test_the_decision_to_wait_agrees_with_a_simulation_of_both_policies() -> None:
    """The closed form against thirty thousand simulated steps."""
    dice = random.Random(5)
    for delay in (0.1 * STEP, 0.3 * STEP, 0.45 * STEP, 0.8 * STEP):
        arrivals = DraftArrivals(draft_ready_after_decode=0.55, draft_ready_after_verify=0.5, tokens_per_verify=2.0)
        rates = {}
        for waits in (True, False):
            seconds = tokens = 0.0
            drafts = False
            for _ in range(30_000):
                if waits and not drafts:
                    seconds, drafts = seconds + delay, True
                seconds += 1.2 * STEP if drafts else STEP
                tokens += arrivals.tokens_per_verify if drafts else 1.0
                drafts = dice.random() < (
                    arrivals.draft_ready_after_verify if drafts else arrivals.draft_ready_after_decode
                )
            rates[waits] = tokens / seconds
        if abs(rates[True] / rates[False] - 1) > 0.02:
            assert should_wait_for_draft(arrivals, delay, 1.0, STEP, 1.2 * STEP) == (rates[True] > rates[False])


def test_waiting_and_wrong_drafts_cost_one_step_in_total() -> None:
    budget, spent = LatencyBudget(1.0), 0.0
    for _ in range(100):
        if budget.may_verify_drafts(STEP):
            budget, spent = budget.after_step(0, 0.01, STEP), spent + 0.01
        wait = budget.max_draft_wait(STEP, None, limit=1.0)
        budget, spent = budget.after_wait(wait), spent + wait
    assert spent <= STEP + 1e-9


def test_saved_time_is_bounded() -> None:
    budget = LatencyBudget(1.0)
    for _ in range(100):
        budget = budget.after_step(5, 0.0, STEP)
    assert budget.max_draft_wait(STEP, None, limit=10.0) <= 5 * STEP + 1e-9


def test_the_window_grows_with_acceptance_within_its_bounds() -> None:
    widths = [draft_window(a / 20, 0.0, 64) for a in range(21)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (8, 64)
    assert all(8 <= width <= 64 for width in widths)


def test_the_window_grows_with_the_draft_delay_in_steps() -> None:
    widths = [draft_window(0.5, delay, 64) for delay in (0.0, 0.5, 1.0, 3.0, 50.0)]
    assert widths == sorted(widths)
    assert widths[2] == 2 * widths[0]
    assert widths[-1] == 64


def stairs(rows: int) -> float:
    """Cheap up to four rows, expensive beyond."""
    return 0.03 if rows <= 4 else 0.01 * rows


def test_nodes_are_selected_while_they_raise_goodput() -> None:
    sure, unsure = [0.9, 0.8, 0.7], [0.3, 0.02]
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, stairs) == {1: [0, 1], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 1, stairs) == {1: [0], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 0, stairs) == {1: [], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, lambda _: 0.03) == {1: [0, 1, 2], 2: [0, 1]}
    assert select_draft_nodes({1: sure, 2: unsure}, 200, 2, 99, stairs) == {1: [0, 1, 2], 2: [0]}


def test_a_cost_step_is_passed_when_the_nodes_beyond_it_pay() -> None:
    def steep(rows: int) -> float:
        return 0.03 if rows == 1 else 0.04

    assert select_draft_nodes({1: [0.3, 0.25, 0.2]}, 1, 1, 99, steep) == {1: [0, 1, 2]}


def test_prompts_add_no_more_than_their_delay_but_always_make_progress() -> None:
    assert prompt_token_budget(1, 500, 0.4, lambda rows: 0.01 * rows) == 40
    assert prompt_token_budget(1, 500, 0.01, lambda rows: 0.01 * rows) == 16
    assert prompt_token_budget(1, 30, 9.0, lambda rows: 0.01 * rows) == 30
    assert prompt_token_budget(0, 500, float("inf"), lambda rows: 0.01 * rows) == 500
    assert prompt_token_budget(64, 0, 1.0, lambda rows: 0.01 * rows) == 0
