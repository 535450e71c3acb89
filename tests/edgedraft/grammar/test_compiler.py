"""Compiling grammars: what matches, what is rejected, and how long an error may be."""

from __future__ import annotations

import pytest
from llguidance import LLTokenizer

from edgedraft.grammar.compiler import GrammarError, compile_grammar, try_grammar, validate_grammar
from edgedraft.grammar.limits import MAX_ERROR_CHARACTERS


def test_a_matcher_is_at_the_beginning_of_the_text() -> None:
    matcher = compile_grammar('start: "ab"', LLTokenizer("byte"))
    assert matcher.consume_token(ord("a"))
    assert matcher.consume_token(ord("b"))
    assert matcher.is_accepting()


def test_a_grammar_with_an_error_has_no_matcher() -> None:
    with pytest.raises(GrammarError, match="missing"):
        compile_grammar("start: missing", LLTokenizer("byte"))


def test_validation_accepts_token_ids_that_no_tokenizer_is_at_hand_for() -> None:
    validate_grammar('start: "a" <[100000]> "b"')
    with pytest.raises(GrammarError, match="missing"):
        validate_grammar("start: missing")


@pytest.mark.parametrize("grammar", ['start: "a"', "start: /a*/", 'start: ""', "start: /[^x]+/", 'start: "é"'])
def test_ordinary_grammars_pass_the_trial(grammar: str) -> None:
    try_grammar(grammar)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("start: missing", "missing"),
        ("start: X\nX: /[ab]/ & /[cd]/", "NoExtensionBias"),  # compiles, and fails at the first token
        ('start: a\na: "x" a', "Too many items"),
        ('start: x "b"\nx[max_tokens=3]: /x*/', "max_tokens"),
    ],
)
def test_the_trial_rejects(grammar: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        try_grammar(grammar)


def test_an_error_is_cut_to_its_limit() -> None:
    assert str(GrammarError("x" * 10_000)) == "x" * MAX_ERROR_CHARACTERS
