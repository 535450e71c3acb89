"""The scheduler's judgements, one by one."""

from __future__ import annotations

import random

import pytest

from verifier.scheduling.draft_arrivals import DraftArrivals
from verifier.scheduling.policy import (
    LatencyBudget,
    cost_beside_prefill,
    draft_window,
    drafting_pays,
    prompt_rows,
    select_draft_nodes,
    worth_waiting,
)

STEP = 0.04


def test_a_fresh_session_waits_half_a_step_at_most_and_a_proven_one_longer() -> None:
    assert LatencyBudget(1.0).patience(STEP, None, longest=1.0) == STEP / 2
    proven = LatencyBudget(1.0).after_step(accepted=3, extra_seconds=0.0, plain_seconds=STEP)
    assert proven.patience(STEP, None, longest=1.0) == pytest.approx(3.5 * STEP)
    assert proven.patience(STEP, None, longest=0.05) == 0.05


def test_only_a_share_of_what_was_saved_is_spent_on_waiting() -> None:
    proven = LatencyBudget(0.5).after_step(accepted=3, extra_seconds=STEP, plain_seconds=STEP)
    assert proven.patience(STEP, None, longest=1.0) == pytest.approx(1.5 * STEP)
    assert LatencyBudget(0.5).after_step(0, STEP / 2, STEP).saved_seconds == pytest.approx(-STEP / 2), (
        "a loss counts whole"
    )


def test_it_does_not_wait_for_drafts_that_come_too_late() -> None:
    assert LatencyBudget(1.0).patience(STEP, draft_delay=0.015, longest=1.0) == STEP / 2
    assert LatencyBudget(1.0).patience(STEP, draft_delay=0.025, longest=1.0) == 0.0


def test_what_was_waited_in_vain_leaves_room_to_check_what_comes_late() -> None:
    waited = LatencyBudget(1.0).after_wait(LatencyBudget(1.0).patience(STEP, None, longest=1.0))
    assert waited.patience(STEP, None, longest=1.0) == 0.0
    assert waited.may_check(STEP)


def test_drafts_are_waited_for_only_where_checking_them_would_pay() -> None:
    def spare(rows: int) -> float:
        return 0.03

    def none_to_spare(rows: int) -> float:
        return 0.01 * rows

    assert drafting_pays(0.5, 16, spare)
    assert drafting_pays(0.5, 1, stairs)
    assert not drafting_pays(0.5, 16, none_to_spare)
    assert not drafting_pays(0.02, 16, spare)


def test_a_prompt_in_the_step_makes_no_node_look_cheap() -> None:
    def seconds(rows: int) -> float:
        return STEP + 0.002 * rows

    chances = {1: [0.5, 0.2], 2: [0.4, 0.1]}
    alone = select_draft_nodes(chances, 16, 16, 8, seconds)
    assert select_draft_nodes(chances, 16, 16, 8, cost_beside_prefill(200, 16, seconds)) == alone
    assert select_draft_nodes(chances, 216, 16, 8, seconds) != alone, "judged by the whole step it would"


def test_a_missing_draft_is_waited_for_if_that_is_the_faster_way() -> None:
    rhythm = DraftArrivals(kept_plain=0.6, kept_checked=0.6, tokens=1.9)
    soon, late = STEP / 10, STEP / 2
    assert worth_waiting(rhythm, soon, 1.0, plain=STEP, checked=1.3 * STEP)
    assert not worth_waiting(rhythm, late, 1.0, plain=STEP, checked=1.3 * STEP)
    assert not worth_waiting(rhythm, soon, 1.6, plain=STEP, checked=1.3 * STEP), "there is enough to check meanwhile"
    forgetful = DraftArrivals(kept_plain=0.1, kept_checked=0.6, tokens=1.9)
    assert worth_waiting(forgetful, late, 1.0, plain=STEP, checked=1.3 * STEP), "a plain step would lose them again"


def test_waiting_is_judged_as_a_simulation_of_both_ways_would() -> None:
    """The closed form against thirty thousand steps of dice."""
    dice = random.Random(5)
    for delay in (0.1 * STEP, 0.3 * STEP, 0.45 * STEP, 0.8 * STEP):
        rhythm = DraftArrivals(kept_plain=0.55, kept_checked=0.5, tokens=2.0)
        rates = {}
        for waits in (True, False):
            seconds = tokens = 0.0
            drafts = False
            for _ in range(30_000):
                if waits and not drafts:
                    seconds, drafts = seconds + delay, True
                seconds += 1.2 * STEP if drafts else STEP
                tokens += rhythm.tokens if drafts else 1.0
                drafts = dice.random() < (rhythm.kept_checked if drafts else rhythm.kept_plain)
            rates[waits] = tokens / seconds
        if abs(rates[True] / rates[False] - 1) > 0.02:
            assert worth_waiting(rhythm, delay, 1.0, STEP, 1.2 * STEP) == (rates[True] > rates[False])


def test_a_rhythm_follows_what_happens() -> None:
    rhythm = DraftArrivals()
    for _ in range(200):
        rhythm.stepped(nodes=4, tokens=3, kept=True)
        rhythm.stepped(nodes=0, tokens=1, kept=False)
        rhythm.drafted(0.02)
    assert rhythm.kept_checked > 0.99
    assert rhythm.kept_plain < 0.01
    assert (rhythm.tokens, rhythm.nodes, rhythm.delay) == pytest.approx((3, 4, 0.02), abs=0.01)


def test_waiting_and_wrong_drafts_cost_one_step_in_all() -> None:
    pace, spent = LatencyBudget(1.0), 0.0
    for _ in range(100):
        if pace.may_check(STEP):
            pace, spent = pace.after_step(0, 0.01, STEP), spent + 0.01
        wait = pace.patience(STEP, None, longest=1.0)
        pace, spent = pace.after_wait(wait), spent + wait
    assert spent <= STEP + 1e-9


def test_what_was_won_is_not_hoarded() -> None:
    pace = LatencyBudget(1.0)
    for _ in range(100):
        pace = pace.after_step(5, 0.0, STEP)
    assert pace.patience(STEP, None, longest=10.0) <= 5 * STEP + 1e-9


def test_the_window_grows_with_acceptance_within_its_bounds() -> None:
    widths = [draft_window(a / 20, 0.0, 64) for a in range(21)]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (8, 64)
    assert all(8 <= width <= 64 for width in widths)


def test_the_window_grows_with_the_steps_that_a_draft_is_away() -> None:
    widths = [draft_window(0.5, delay, 64) for delay in (0.0, 0.5, 1.0, 3.0, 50.0)]
    assert widths == sorted(widths)
    assert widths[2] == 2 * widths[0]
    assert widths[-1] == 64


def stairs(rows: int) -> float:
    """Cheap to four rows, then dear."""
    return 0.03 if rows <= 4 else 0.01 * rows


def test_nodes_are_checked_while_they_pay() -> None:
    sure, unsure = [0.9, 0.8, 0.7], [0.3, 0.02]
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, stairs) == {1: [0, 1], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 1, stairs) == {1: [0], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 0, stairs) == {1: [], 2: []}
    assert select_draft_nodes({1: sure, 2: unsure}, 2, 2, 99, lambda _: 0.03) == {1: [0, 1, 2], 2: [0, 1]}
    assert select_draft_nodes({1: sure, 2: unsure}, 200, 2, 99, stairs) == {1: [0, 1, 2], 2: [0]}


def test_a_stair_is_climbed_when_what_lies_beyond_pays() -> None:
    def steep(rows: int) -> float:
        return 0.03 if rows == 1 else 0.04

    assert select_draft_nodes({1: [0.3, 0.25, 0.2]}, 1, 1, 99, steep) == {1: [0, 1, 2]}


def test_prompts_add_no_more_than_their_delay_but_always_get_on() -> None:
    assert prompt_rows(1, 500, 0.4, lambda rows: 0.01 * rows) == 40
    assert prompt_rows(1, 500, 0.01, lambda rows: 0.01 * rows) == 16
    assert prompt_rows(1, 30, 9.0, lambda rows: 0.01 * rows) == 30
    assert prompt_rows(0, 500, float("inf"), lambda rows: 0.01 * rows) == 500
    assert prompt_rows(64, 0, 1.0, lambda rows: 0.01 * rows) == 0
