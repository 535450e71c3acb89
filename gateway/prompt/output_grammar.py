"""Grammars in llguidance's Lark form: what an output may be, put together from what a request asks for.

A Body is what content may be: a Lark expression that can stand in a rule, and a grammar of the client's own that it
calls. `output_grammar` sets thinking, content and tool calls together. Whether a text compiles, and at what cost, is
grammar_check.py's to find out.

Source: llguidance, docs/syntax.md and docs/json_schema.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import grammar_from, regex_to_lark

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import ToolCallFormat

MAX_TOOL_CALLS = 16  # calls in one output; a small model that may go on would never end

# At most so much white space at a time, for the same reason.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


@dataclass(frozen=True, slots=True)
class GrammarFragment:
    """`expression` is Lark; it calls `client`, a whole grammar, by the name @client."""

    expression: str
    client_grammar: str = ""


@dataclass(frozen=True, slots=True)
class ToolCallRule:
    """The calls that an output may hold, or with `must` holds: tools' names with what their arguments may be."""

    format: ToolCallFormat
    tools: tuple[tuple[str, GrammarFragment], ...]
    required: bool
    parallel: bool


def json_fragment(schema: Mapping[str, Any], *, lenient: bool = False) -> GrammarFragment:
    """JSON that follows the schema; `lenient` passes over keywords that cannot be kept to."""
    options: dict[str, Any] = {"whitespace_pattern": _WHITESPACE}
    if lenient:
        options["lenient"] = True
    return GrammarFragment(f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}")


def regex_fragment(pattern: str) -> GrammarFragment:
    """Text that matches the whole pattern, in the syntax of Rust's regex crate. Raises ValueError."""
    return GrammarFragment(f"/{regex_to_lark(pattern)}/" if pattern else '""')


def choice_fragment(choices: Sequence[str]) -> GrammarFragment:
    return GrammarFragment("(" + " | ".join(_quoted(choice) for choice in choices) + ")")


def client_grammar_fragment(text: str) -> GrammarFragment:
    """A client's own grammar, in Lark or llama.cpp's GBNF. Raises ValueError."""
    return GrammarFragment("@client", grammar_from("grammar", text))


def build_output_grammar(
    content: GrammarFragment | None,
    thinking: ReasoningFormat | None,
    calls: ToolCallRule | None,
    tokens: Mapping[str, int],
) -> str:
    """What Sampling.grammar takes; empty where nothing binds the output.

    `tokens` are the marks of thinking and calls that are tokens of the model's own, with their ids.
    """
    if content is None and calls is None:
        return ""
    lines = ["TEXT: /(.|\\n)*/"]
    if thinking and (
        thinking.opened_by_prompt or thinking.start_marker in tokens
    ):  # ordinary text can begin like a mark of ordinary text
        lines += ["start: thinking output", *_thinking_rules(thinking, tokens)]
    else:
        lines.append("start: output")
    if calls:
        lines += _call_rules(calls, content, tokens)
    elif content:
        lines.append(f"output: {content.expression}")
    lark = "\n".join(lines)
    if content is None or not content.client_grammar or (calls and calls.required):
        return lark
    grammars = [("output", lark), ("client", content.client_grammar)]
    return json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in grammars]})


def _thinking_rules(thinking: ReasoningFormat, tokens: Mapping[str, int]) -> list[str]:
    if thinking.end_marker in tokens:
        lines = [f"thought: TEXT {_literal(thinking.end_marker, tokens)}"]
    else:
        lines = [f"thought[lazy]: /(.|\\n)*{_escaped(thinking.end_marker)}/"]
    whole = "thought /[ \\n]{0,4}/"
    if not thinking.opened_by_prompt:
        whole = f"({_literal(thinking.start_marker, tokens)} {whole})?"
    return [*lines, f"thinking: {whole}"]


def _call_rules(calls: ToolCallRule, content: GrammarFragment | None, tokens: Mapping[str, int]) -> list[str]:
    form = calls.format
    alternatives = (
        f"{_literal(name + form.after_name, tokens)} {arguments.expression} {_literal(form.closing, tokens)}"
        for name, arguments in calls.tools
    )
    more = ""
    if calls.parallel and form.following:
        more = f" ({_literal(form.following, tokens)} call){{0,{MAX_TOOL_CALLS - 1}}}"
    lines = [
        "call: " + " | ".join(alternatives),
        f"calls: call{more} {_literal(form.end, tokens)}",
    ]
    opening = _literal(form.opening, tokens)
    if calls.required:
        return [*lines, f"output: {opening} calls"]
    if content:
        return [*lines, f"output: {content.expression} | {opening} calls"]
    if not form.anywhere:
        return [*lines, f"output: other | {opening} calls", f"other: /([^\\s{form.marker[0]}](.|\\n)*)?/"]
    # The tag calls for a call however it is spelt: by its own token or by ordinary ones.
    marked = f"tagged | TEXT {_literal(form.marker, tokens)}" if form.marker in tokens else "tagged"
    return [
        *lines,
        f"output: TEXT | marked {_literal(form.opening.removeprefix(form.marker), tokens)} calls",
        f"marked: {marked}",
        f"tagged[lazy]: /(.|\\n)*{_escaped(form.marker)}/",
    ]


def _literal(text: str, tokens: Mapping[str, int]) -> str:
    """The text as a Lark expression; what is a token of the model's own is written by its id."""
    pieces: list[str] = []
    while text:
        found = [(at, -len(token), token) for token in tokens if (at := text.find(token)) >= 0]
        at, _, token = min(found, default=(len(text), 0, ""))
        if at:
            pieces.append(_quoted(text[:at]))
        if token:
            pieces.append(f"<[{tokens[token]}]>")
        text = text[at + len(token) :]
    return " ".join(pieces)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return "".join(character if character.isalnum() or character in "<>_ " else f"\\{character}" for character in text)
