"""Grammars compiled by llguidance: which outputs they accept, and which grammars are rejected beforehand."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import HERMES, LLAMA, MISTRAL, MISTRAL_LIST, ToolCallFormat
from gateway.prompt.output_grammar import (
    GrammarFragment,
    ToolCallRule,
    build_output_grammar,
    choice_fragment,
    client_grammar_fragment,
    json_fragment,
    regex_fragment,
)
from tests.support import toy_model

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]")


@lru_cache
def _vocabulary() -> tuple[dict[str, int], LLTokenizer]:
    """The toy model's, with the marks as tokens of their own."""
    tokenizer = toy_model.build()
    tokenizer.add_tokens([AddedToken(mark, special=mark.startswith("[")) for mark in MARKS])
    ids = {mark: tokenizer.get_vocab()[mark] for mark in MARKS}
    return ids, LLTokenizer(tokenizer.to_str(), eos_token=toy_model.EOS)


def passes(grammar: str, text: str, marks: bool = False) -> bool:
    """Whether the complete text may be the output; with `marks`, these are written by their tokens."""
    ids, tokenizer = _vocabulary()
    matcher = LLMatcher(tokenizer, grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens: list[int] = []
    while text:
        mark = next((mark for mark in MARKS if marks and text.startswith(mark)), "")
        piece = mark or text[0]
        tokens += [ids[mark]] if mark else toy_model.TOKENIZER.encode(piece, add_special_tokens=False).ids
        text = text[len(piece) :]
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def alone(body: GrammarFragment) -> str:
    return build_output_grammar(body, None, None, {})


def rule(form: ToolCallFormat, must: bool = False, parallel: bool = True) -> ToolCallRule:
    return ToolCallRule(
        form, (("get", json_fragment(CITY)), ("get_all", json_fragment({"type": "object"}))), must, parallel
    )


@pytest.mark.parametrize(
    ("body", "good", "bad"),
    [
        (json_fragment({"type": "object"}), ['{"a": [1, null]}', "{\n}"], ["[]", "", ' {"a":1}', "{" + " " * 40 + "}"]),
        (json_fragment(CITY), ['{"city":"Ulm"}'], ['{"city": 1}', "{}", '{"city": "a", "b": 1}']),
        (
            json_fragment(
                {"type": "string", "uniqueItems": True, "x-guidance": {"whitespace_flexible": True}}, lenient=True
            ),
            ['"a"'],
            ["a"],
        ),
        (regex_fragment(r"\d{3}/[a-z\"]+"), ['123/a"'], ["12/a", "123/"]),
        (regex_fragment(""), [""], ["a"]),
        (choice_fragment(["ja", "jä😀", 'a"\n']), ["ja", "jä😀", 'a"\n'], ["j", "jaja"]),
        (client_grammar_fragment('start: "a" b\nb: "c"+'), ["acc"], ["a"]),
        (client_grammar_fragment('root ::= "a" | b\nb ::= [0-9]+'), ["a", "17"], ["b"]),
    ],
)
def test_a_format_binds_the_whole_text(body: GrammarFragment, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not passes(alone(body), text)] == []
    assert [text for text in bad if passes(alone(body), text)] == []


def test_nothing_asked_is_no_grammar() -> None:
    assert build_output_grammar(None, ReasoningFormat("<think>", "</think>"), None, {}) == ""


def written(form: ToolCallFormat, *calls: tuple[str, str]) -> str:
    texts = [f"{name}{form.after_name}{arguments}{form.closing}" for name, arguments in calls]
    return form.opening + form.following.join(texts) + form.end


@pytest.mark.parametrize("marks", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("form", [HERMES, MISTRAL, MISTRAL_LIST, LLAMA], ids=["hermes", "mistral", "list", "llama"])
def test_calls_are_of_a_tool_and_follow_its_schema(form: ToolCallFormat, marks: bool) -> None:
    tokens = _vocabulary()[0] if marks else {}
    free, must = (build_output_grammar(None, None, rule(form, must), tokens) for must in (False, True))
    one = build_output_grammar(None, None, rule(form, must=True, parallel=False), tokens)
    good = written(form, ("get", '{"city": "Ulm"}'))
    two = written(form, ("get", '{"city": "Ulm"}'), ("get_all", '{"x": [1]}'))
    for grammar in (free, must, one):
        assert passes(grammar, good, marks)
        assert not passes(grammar, written(form, ("get", '{"town": 1}')), marks)
        assert not passes(grammar, written(form, ("put", "{}")), marks)
        assert not passes(grammar, good[: -len(form.closing + form.end) or -1], marks)
        assert passes(grammar, two, marks) == (grammar != one and bool(form.following))
        assert passes(grammar, "Let me see.", marks) == (grammar == free)
        assert passes(grammar, "Let me see.\n" + good, marks) == (grammar == free)


def test_a_mark_calls_for_a_call_however_it_is_spelt() -> None:
    grammar = build_output_grammar(None, None, rule(HERMES), _vocabulary()[0])
    assert not passes(grammar, "so <tool_call> it is", marks=False)
    assert not passes(grammar, "so <tool_call> it is", marks=True)


def test_content_of_a_format_or_calls() -> None:
    grammar = build_output_grammar(json_fragment(CITY), None, rule(HERMES), {})
    assert passes(grammar, '{"city": "Ulm"}')
    assert passes(grammar, written(HERMES, ("get", '{"city": "Ulm"}')))
    assert not passes(grammar, "Let me see.")
    assert passes(build_output_grammar(client_grammar_fragment('root ::= "a"'), None, rule(HERMES), {}), "a")


@pytest.mark.parametrize("begun", [False, True])
def test_thought_comes_first_and_is_free(begun: bool) -> None:
    tokens = _vocabulary()[0]
    grammar = build_output_grammar(json_fragment(CITY), ReasoningFormat("<think>", "</think>", begun), None, tokens)
    opening = "" if begun else "<think>"
    assert passes(grammar, f'{opening}\nhm {{ <b> \n</think>\n\n{{"city": "Ulm"}}', marks=True)
    assert passes(grammar, '{"city": "Ulm"}', marks=True) == (not begun)
    assert not passes(grammar, f"{opening}hm</think>no", marks=True)
    spelt = build_output_grammar(
        json_fragment(CITY), ReasoningFormat("<think>", "</think>", opened_by_prompt=True), None, {}
    )
    assert passes(spelt, 'hm </think>{"city": "Ulm"}')


def test_a_schema_cannot_loosen_its_own_bounds() -> None:
    body = json_fragment(json.loads('{"type": "string", "x-guidance": {"lenient": true}}'))
    options: dict[str, Any] = json.loads(body.expression.removeprefix("%json "))["x-guidance"]
    assert "lenient" not in options
