"""Compiles grammars with llguidance under the limits of limits.py.

Nothing here bounds time or memory: a grammar that has not been checked is compiled in a worker process (service.py).

Source: llguidance, https://github.com/guidance-ai/llguidance (syntax.md).
"""

from __future__ import annotations

import json
import re

from llguidance import LLMatcher, LLTokenizer

from edgedraft.grammar.limits import MAX_ERROR_CHARACTERS, parser_limits
from edgedraft.grammar.probe import find_dead_end

_TRIAL_TOKENS = 24

# llguidance quotes the lines of the grammar, which is the gateway's, below what it says.
_QUOTED_LINE = re.compile(r"\n *\d+ \|.*")
_PLACE_IN_SCHEMA = re.compile(r"^at \d+\(\d+\): failed to compile JSON schema: ")

_UNIMPLEMENTED = re.compile(r"^Unimplemented keys: (\[.*\])$")
_UNKNOWN_FORMAT = re.compile(r"^Unknown format: (.*)$")


class GrammarError(ValueError):
    """The grammar cannot be used; the text says why, in at most MAX_ERROR_CHARACTERS."""

    def __init__(self, reason: str) -> None:
        said = _PLACE_IN_SCHEMA.sub("", _QUOTED_LINE.split(reason, maxsplit=1)[0])
        super().__init__(said[:MAX_ERROR_CHARACTERS])


def compile_grammar(grammar: str, tokenizer: LLTokenizer) -> LLMatcher:
    """Returns a matcher over the tokenizer's tokens, at the beginning of the text. Raises GrammarError.

    llguidance builds its lexer and parser as the text goes on, so a grammar may still exceed a limit later.
    """
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits())
    if matcher.is_error():
        raise GrammarError(matcher.get_error())
    return matcher


def validate_grammar(grammar: str) -> None:
    """Compiles without a tokenizer, so that the grammar may refer to any model's token ids. Raises GrammarError."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=parser_limits())
    if failed:
        raise GrammarError(messages[0])


def unimplemented_keywords(grammar: str) -> list[str]:
    """Keywords of JSON schemas in the grammar that the compiler leaves out; a format as `format:` and its name.

    Of a grammar that compiles because its schemas are lenient.
    """
    _, messages = LLMatcher.validate_grammar_with_warnings(grammar, None, limits=parser_limits())
    keywords: set[str] = set()
    for message in messages:
        if keys := _UNIMPLEMENTED.match(message):
            keywords.update(json.loads(keys[1]))
        elif unknown := _UNKNOWN_FORMAT.match(message):
            keywords.add(f"format:{unknown[1]}")
        elif message.startswith("min/maxProperties"):
            keywords.update(("minProperties", "maxProperties"))
    return sorted(keywords)


def try_grammar(grammar: str) -> None:
    """Compiles the grammar over single bytes and generates a few tokens by it. Raises GrammarError.

    The grammar must not refer to token ids, since no model's tokenizer is at hand. The bytes taken are the lowest that
    are allowed, so the same text is generated each time. Then probe.py looks for dead ends.
    """
    matcher = compile_grammar(grammar, LLTokenizer("byte"))
    beginning = matcher.deep_copy()
    for step in range(_TRIAL_TOKENS):
        mask = int.from_bytes(matcher.compute_bitmask(), "little") if not matcher.is_error() else 0
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        token = (mask & -mask).bit_length() - 1
        if token < 0:
            raise GrammarError("no text fulfils it")
        if token > 255 or not matcher.consume_token(token):
            break
        if step == 0 and not (matcher.rollback(1) and matcher.consume_token(token)):
            raise GrammarError("max_tokens and stop are not supported in grammars")
        if matcher.is_stopped():
            break
    if matcher.is_error():
        raise GrammarError(matcher.get_error())
    if fault := find_dead_end(beginning):
        raise GrammarError(fault)
