"""Incremental detokenization, against plain decoding."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.output.detokenizer import IncrementalDetokenizer
from tests.support.toy_model import EOS, TOKENIZER


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def read(tokens: list[int]) -> list[str]:
    detokenizer = IncrementalDetokenizer(TOKENIZER)
    return [detokenizer.add(token) for token in tokens]


@given(st.text(st.sampled_from("abc é漢😀\n"), max_size=30))
def test_the_texts_of_the_tokens_are_the_text(text: str) -> None:
    assert "".join(read(ids(text))) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, EOS), max_size=40))
def test_any_tokens_at_all_leave_no_half_characters_and_raise_nothing(tokens: list[int]) -> None:
    text = "".join(read(tokens))
    assert TOKENIZER.decode(tokens, skip_special_tokens=True).startswith(text.rstrip("\ufffd"))


def test_a_character_comes_with_its_last_token() -> None:
    assert read(ids("é")) == ["", "é"]


def test_special_tokens_are_no_text() -> None:
    assert read([*ids("a"), EOS, *ids("b")]) == ["a", "", "b"]
