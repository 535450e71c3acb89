"""A prediction cursor follows outputs that agree, edit, skip, insert, or differ completely."""

from __future__ import annotations

import random

import pytest

from edgedraft.proposers.prediction import MAX_SEARCH, PredictionCursor, count_accepted

TEXT = random.Random(1).sample(range(1000), 200)


def steps_of(prediction: list[int], output: list[int]) -> int:
    """How many verify steps an output takes when each verifies the complete proposal."""
    cursor, at, steps = PredictionCursor.from_prediction(prediction), 0, 0
    while at < len(output):
        proposal, probabilities = cursor.propose()
        assert len(proposal) == len(probabilities)
        right = 0
        while right < len(proposal) and at + right < len(output) and proposal[right] == output[at + right]:
            right += 1
        made = output[at : at + right + 1]
        cursor.advance(made)
        at += len(made)
        steps += 1
    return steps


def test_an_output_as_predicted_is_proposed_completely() -> None:
    cursor = PredictionCursor.from_prediction(TEXT)
    tokens, probabilities = cursor.propose(10)
    assert tokens == TEXT[: len(tokens)]
    assert len(tokens) == 10
    assert all(0 < p < 1 for p in probabilities)
    assert steps_of(TEXT, TEXT) < 15
    assert count_accepted(TEXT, TEXT) == (200, 0)


@pytest.mark.parametrize(
    ("output", "accepted"),
    [
        pytest.param([*TEXT[:80], 5000, *TEXT[81:]], 199, id="replaced"),
        pytest.param([*TEXT[:80], 5000, 5001, 5002, *TEXT[80:]], 200, id="inserted"),
        pytest.param([*TEXT[:80], *TEXT[85:]], 195, id="skipped a little"),
        pytest.param([*TEXT[:50], *TEXT[150:]], 100, id="skipped much"),
        pytest.param([5000, 5001, *TEXT], 200, id="begins otherwise"),
        pytest.param([*range(5000, 5100)], 0, id="nothing"),
        pytest.param([*TEXT, *range(5000, 5010)], 200, id="longer"),
        pytest.param(TEXT[:70], 70, id="shorter"),
        pytest.param([], 0, id="empty"),
    ],
)
def test_edits_cost_a_few_tokens_and_are_counted(output: list[int], accepted: int) -> None:
    assert count_accepted(TEXT, output) == (accepted, 200 - accepted)
    if accepted > 90:
        assert steps_of(TEXT, output) < 35


def test_the_position_does_not_depend_on_how_the_output_is_split() -> None:
    dice = random.Random(2)
    for _ in range(30):
        prediction = dice.choices(range(12), k=60)
        output = [token for token in prediction if dice.random() < 0.8]
        for _ in range(5):
            output.insert(dice.randrange(len(output)), dice.randrange(12))
        at_once, pieces = PredictionCursor.from_prediction(prediction), PredictionCursor.from_prediction(prediction)
        at_once.advance(output)
        at = 0
        while at < len(output):
            size = dice.randint(1, 7)
            pieces.advanced_copy(dice.choices(range(12), k=5))
            pieces.advance(output[at : at + size])
            at += size
        assert pieces.propose() == at_once.propose()
        assert pieces.num_accepted == at_once.num_accepted
        assert 0 <= at_once.num_accepted <= min(len(prediction), len(output))


def test_a_coincidental_match_far_ahead_does_not_skip_what_comes_before() -> None:
    prediction = [*TEXT[:100], 5000, 5001, 5002]
    output = [*TEXT[:20], 5000, 5001, 7, *TEXT[20:100]]
    assert count_accepted(prediction, output)[0] >= 100


def test_an_advanced_copy_leaves_the_cursor_unchanged() -> None:
    cursor = PredictionCursor.from_prediction(TEXT)
    cursor.advance(TEXT[:5])
    ahead = cursor.advanced_copy(TEXT[5:9])
    assert ahead.propose(1)[0] == [TEXT[9]]
    assert cursor.propose(1)[0] == [TEXT[5]]
    assert cursor.match_rates != ahead.match_rates


def test_a_hostile_prediction_takes_no_more_than_linear_time() -> None:
    cursor = PredictionCursor.from_prediction([1] * (2 * MAX_SEARCH))
    cursor.advance([2, 1, 1, 2] * 200)
    assert cursor.num_output == 800
    assert cursor.num_accepted <= 800
