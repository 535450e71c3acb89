"""Prompt lookup proposes what followed an earlier match, with probabilities by match length and measured accuracy."""

from __future__ import annotations

from typing import Any

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edgedraft.proposers.prompt_lookup import MAX_CHAIN, NGRAM_SIZES, TABLE_SIZE
from edgedraft.wire import Sampling
from tests.edge_agent.tiny_drafter import point
from tests.support.processor_time import fastest

LINE = [11, 12, 13, 14, 15, 16, 17, 18, 19]


def ask(prompt: list[int], output: list[int] | None = None, lookup: PromptLookupDrafter | None = None) -> Proposal:
    if lookup is None:
        lookup = PromptLookupDrafter()
        lookup.open(1)
    return lookup.propose([point(prompt, output or [])])[0]


def test_it_goes_on_as_the_text_did_last_time() -> None:
    proposal = ask([*LINE, 1, 2, *LINE[:4]])
    assert proposal.tokens[:5] == (15, 16, 17, 18, 19)
    assert proposal.parents == tuple(range(-1, len(proposal.tokens) - 1))
    assert proposal.complete


def test_the_path_grows_less_probable_along_the_chain() -> None:
    probabilities = ask([*LINE, 1, 2, *LINE[:4]]).probabilities
    assert all(0 < p < 1 for p in probabilities)


def test_the_longest_match_wins_over_the_latest() -> None:
    text = [1, 2, 3, 4, 50, 9, 3, 4, 60, 9, 1, 2, 3, 4]
    assert ask(text).tokens[0] == 50
    assert ask([3, 4, 50, 9, 3, 4, 60, 9, 7, 3, 4]).tokens[0] == 60


def test_longer_matches_are_trusted_more() -> None:
    first = [ask([*LINE, 1, 2, *LINE[:n]]).probabilities[0] for n in (2, 3, 4, 8)]
    assert first == sorted(first)
    assert first[0] < first[-1]


def test_a_period_is_continued_beyond_the_end_of_the_text() -> None:
    assert ask([0, 7, 8, 9, 7, 8, 9, 7, 8]).tokens == tuple([9, 7, 8] * 4)[:MAX_CHAIN]


def test_nothing_is_proposed_where_nothing_was_repeated() -> None:
    assert ask([1, 2, 3, 4, 5, 6]) == NO_PROPOSAL
    assert ask([1]) == NO_PROPOSAL
    assert ask([]) == NO_PROPOSAL


def test_a_drafted_path_is_looked_up_but_not_learnt() -> None:
    lookup = PromptLookupDrafter()
    lookup.open(1)
    settled = [*LINE, 1, 2]
    drafted = DraftRequest(1, [*settled, 90, *LINE[:4]], len(settled), 5, Sampling())
    assert lookup.propose([drafted])[0].tokens[0] == 15
    # The text went on otherwise, and what only the path said must not be found: neither "2, 90" nor in its place.
    assert ask([*settled, 2, 90], lookup=lookup) == NO_PROPOSAL
    assert ask([*settled, 2, 90, 3, 2, 90], lookup=lookup).tokens[0] == 3


def test_trust_follows_what_was_right() -> None:
    def after(output: list[int]) -> float:
        return ask([5, 6, 1, 5, 6, 2], [*output, 5, 6]).probabilities[0]

    always = [token for i in range(10) for token in (40 + i, 5, 6, 3)]
    never = [token for i in range(10) for token in (40 + i, 5, 6, 60 + i)]
    assert after(always) > 0.5
    assert after(never) < 0.15


def _scattered(length: int) -> list[int]:
    return [(i * 7919 + i // 97) % 30011 for i in range(length)]


def test_memory_is_bounded_whatever_the_length() -> None:
    lookup = PromptLookupDrafter()
    lookup.open(1)
    text = _scattered(120_000)
    ask(text, lookup=lookup)
    known = lookup._texts[1]
    assert [len(known.tables[n]) for n in NGRAM_SIZES] == [TABLE_SIZE] * 3
    assert ask([*text, 40001, 40002], lookup=lookup) == NO_PROPOSAL, "a slot that another n-gram fills is no match"


def test_a_look_takes_as_long_in_a_long_text_as_in_a_short_one() -> None:
    def look(length: int) -> None:
        known, text = looks[length]
        for _ in range(100):
            known.find_match(text, length)

    looks: dict[int, tuple[Any, list[int]]] = {}
    for length in (1_000, 120_000):
        lookup = PromptLookupDrafter()
        lookup.open(1)
        text = _scattered(length)
        ask(text, lookup=lookup)
        looks[length] = lookup._texts[1], text
    assert fastest(lambda: look(120_000)) < 5 * fastest(lambda: look(1_000)) + 0.001


def test_a_closed_session_is_forgotten_and_an_opened_one_begins_empty() -> None:
    lookup = PromptLookupDrafter()
    lookup.open(1)
    ask([*LINE, 1, 2, *LINE[:4]], lookup=lookup)
    lookup.open(1)
    assert ask([30, 31, *LINE[:4]], lookup=lookup) == NO_PROPOSAL
    lookup.close(1)
    lookup.close(1)
    assert not lookup._texts
