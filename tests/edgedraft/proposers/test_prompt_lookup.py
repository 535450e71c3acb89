"""Prompt lookup: matches against a direct search, proposals, measured match rates, and bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedraft.proposers.prompt_lookup import (
    MAX_CHAIN,
    MAX_MATCH,
    MIN_PATH_PROBABILITY,
    NGRAM_SIZES,
    PRIOR,
    PRIOR_WEIGHT,
    TABLE_SIZE,
    MatchRates,
    NgramIndex,
)


def indexed(text: list[int], prompt_length: int | None = None) -> NgramIndex:
    index = NgramIndex()
    index.update(text, len(text), len(text) if prompt_length is None else prompt_length)
    return index


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_match_is_a_true_repetition(text: list[int]) -> None:
    position, length = indexed(text).find_match(text, len(text))
    assert (position, length) == (0, 0) or NGRAM_SIZES[-1] <= length <= min(position, MAX_MATCH)
    assert position <= max(0, len(text) - 1)
    assert text[position - length : position] == text[len(text) - length :]


def test_a_longer_match_is_preferred_to_a_later_one() -> None:
    text = [1, 2, 3, 4, 9, 3, 4, 8, 1, 2, 3, 4]
    assert indexed(text).find_match(text, len(text)) == (4, 4)


def test_a_match_is_extended_to_its_full_length() -> None:
    text = [*range(10, 20), 5, *range(10, 20)]
    assert indexed(text).find_match(text, len(text)) == (10, 10)


def test_the_latest_of_several_matches_is_proposed() -> None:
    text = [1, 2, 3, 9, 1, 2, 4, 9, 1, 2]
    assert indexed(text).propose(text)[0][0] == 4


def test_a_repeating_pattern_continues_beyond_the_text() -> None:
    text = [7, 8, 9] * 8
    tokens, probabilities = indexed(text, prompt_length=0).propose(text)
    assert tokens == [7, 8, 9] * (MAX_CHAIN // 3)
    assert len(probabilities) == MAX_CHAIN


def test_a_text_without_repetition_has_no_proposal() -> None:
    text = list(range(50))
    assert indexed(text).propose(text) == ([], [])


def test_a_proposal_ends_where_its_path_becomes_improbable() -> None:
    text = [1, 2, *range(10, 40), 1, 2]
    index = indexed(text)
    for length in range(MAX_MATCH + 1):
        for _ in range(40):
            index.match_rates.observe(length, right=False)
    path = 1.0
    tokens, probabilities = index.propose(text)
    for probability in probabilities:
        path *= probability
    assert len(tokens) == len(probabilities) < MAX_CHAIN
    assert path >= MIN_PATH_PROBABILITY


def test_only_output_tokens_are_measured() -> None:
    text = [5, 6, 7] * 6
    assert sum(indexed(text).match_rates.attempts) == 0
    rates = indexed(text, prompt_length=9).match_rates
    assert sum(rates.attempts) == sum(rates.hits) == 9


def test_indexing_in_pieces_gives_the_same_index() -> None:
    dice = random.Random(4)
    text = dice.choices(range(4), k=200)
    at_once, pieces = indexed(text, prompt_length=50), NgramIndex()
    while pieces.num_indexed < len(text):
        pieces.update(text, min(len(text), pieces.num_indexed + dice.randint(1, 9)), 50)
    assert pieces == at_once


@pytest.mark.parametrize("length", [0, 2, MAX_MATCH, MAX_MATCH + 9])
def test_match_rates_move_from_the_prior_to_what_was_measured(length: int) -> None:
    rates = MatchRates()
    prior = PRIOR[min(length, MAX_MATCH)]
    assert rates.probability(length) == pytest.approx(prior)
    for right in (True, True, False):
        rates.observe(length, right)
    assert rates.probability(length) == pytest.approx((2 + prior * PRIOR_WEIGHT) / (3 + PRIOR_WEIGHT))


def test_the_tables_do_not_grow() -> None:
    dice = random.Random(5)
    index = indexed(dice.choices(range(50_000), k=2 * TABLE_SIZE))
    assert [len(index.tables[n]) for n in NGRAM_SIZES] == [TABLE_SIZE] * len(NGRAM_SIZES)
