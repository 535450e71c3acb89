"""Incremental detokenization and stop strings, against plain decoding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.output.detokenizer import IncrementalDetokenizer
from tests.support.toy_model import EOS, TOKENIZER

TEXTS = st.text(st.sampled_from("abc é漢😀\n"), max_size=30)
STOPS = st.lists(st.text(st.sampled_from("abc é漢"), min_size=1, max_size=4), max_size=3)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def cut(tokens: list[int], sizes: list[int]) -> list[list[int]]:
    """`tokens` in groups of these sizes, again and again."""
    groups, place = [], 0
    while place < len(tokens):
        size = sizes[len(groups) % len(sizes)]
        groups.append(tokens[place : place + size])
        place += size
    return groups


def read(groups: list[list[int]], stops: list[str]) -> tuple[list[str], int, bool]:
    detokenizer, pieces, count = IncrementalDetokenizer(TOKENIZER, stops), [], 0
    for group in groups:
        decoded = detokenizer.add(group)
        pieces.append(decoded.text)
        count += decoded.num_tokens
        if decoded.stopped:
            return pieces, count, True
    return [*pieces, detokenizer.flush()], count, False


@settings(max_examples=300, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_text_and_stops_do_not_depend_on_the_grouping(text: str, stops: list[str], sizes: list[int]) -> None:
    tokens = ids(text)
    pieces, count, stopped = read(cut(tokens, sizes), stops)
    ends = [(end, end - len(stop)) for stop in stops if (end := text.find(stop) + len(stop)) >= len(stop)]
    if ends:
        end, start = min(ends)
        assert stopped
        assert "".join(pieces) == text[:start]
        assert count == len(ids(text[:end]))
    else:
        assert not stopped
        assert "".join(pieces) == text
        assert count == len(tokens)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, EOS), max_size=40), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_any_tokens_at_all_leave_no_half_characters_and_raise_nothing(tokens: list[int], sizes: list[int]) -> None:
    pieces, count, _ = read(cut(tokens, sizes), [])
    assert count == len(tokens)
    text = "".join(pieces)
    assert TOKENIZER.decode(tokens, skip_special_tokens=True).startswith(text.rstrip("\ufffd"))


def test_nothing_of_a_possible_stop_is_sent_early() -> None:
    detokenizer = IncrementalDetokenizer(TOKENIZER, ["END"])
    assert detokenizer.add(ids("the E")).text == "the "
    assert detokenizer.add(ids("N")).text == ""
    assert detokenizer.add(ids("E")).text == "EN"
    decoded = detokenizer.add(ids("ND and more"))
    assert (decoded.text, decoded.num_tokens, decoded.stopped) == ("", 2, True)


def test_special_tokens_are_no_text_but_count() -> None:
    decoded = IncrementalDetokenizer(TOKENIZER).add([*ids("a"), EOS, *ids("b")])
    assert (decoded.text, decoded.num_tokens) == ("ab", 3)


@pytest.mark.parametrize(("stops", "text"), [(["bc", "abc"], ""), (["abcd", "b"], "a"), (["c", "bcd"], "ab")])
def test_of_several_stops_the_one_that_ends_first_counts(stops: list[str], text: str) -> None:
    assert read([ids("abcd")], stops)[0] == [text]


@settings(max_examples=300, deadline=None)
@given(TEXTS, STOPS, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_tokens_are_settled_with_the_last_of_their_text(text: str, stops: list[str], sizes: list[int]) -> None:
    tokens = ids(text)
    detokenizer, ready, settled, stopped = IncrementalDetokenizer(TOKENIZER, stops), "", 0, False
    for group in cut(tokens, sizes):
        decoded = detokenizer.add(group)
        ready, settled, stopped = ready + decoded.text, settled + decoded.num_settled, decoded.stopped
        assert settled == len(ids(ready)), "every byte is a token"
        if stopped:
            break
    assert stopped or ready + detokenizer.flush() == text
