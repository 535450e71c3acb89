"""The limits of grammars: what llguidance is started with, and that a wire message carries the longest grammar."""

from __future__ import annotations

import dataclasses

import pytest
from llguidance import LLParserLimits

from edgedraft.grammar.limits import MAX_CHARACTERS, WORKER_LIMITS, parser_limits
from edgedraft.wire import Open, Sampling, WireError, decode_to_verifier, encode_frame

LOWERED = ("step_max_items", "step_lexer_fuel", "initial_lexer_fuel", "max_lexer_states", "max_grammar_size")


@pytest.mark.parametrize("name", LOWERED)
def test_a_limit_is_below_its_default(name: str) -> None:
    assert 0 < getattr(parser_limits(), name) < getattr(LLParserLimits(), name)


def test_large_lexemes_are_not_computed_when_a_grammar_is_compiled() -> None:
    assert not parser_limits().precompute_large_lexemes
    assert not parser_limits().verbose_errors


def test_the_longest_grammar_fits_into_a_wire_message() -> None:
    grammar = "x" * MAX_CHARACTERS
    message = Open(1, [1], Sampling(grammar=grammar), 1)
    assert decode_to_verifier(encode_frame([message])) == [message]
    with pytest.raises(WireError, match="grammar"):
        decode_to_verifier(encode_frame([Open(1, [1], Sampling(grammar=grammar + "x"), 1)]))


def test_the_workers_limits_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WORKER_LIMITS.cpu_seconds = 3.0  # type: ignore[misc]
