"""Writes the grammar of a complete output in llguidance's Lark dialect: reasoning, then content or tool calls.

A GrammarFragment says what content or arguments may be; `build_output_grammar` puts fragments together. Nothing here
compiles a grammar: edgedraft/grammar/service.py checks whether one can be served.

Source: the documentation of llguidance (syntax.md, json_schema.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llguidance import grammar_from, regex_to_lark

from gateway.model.reasoning import ReasoningFormat
from gateway.model.tool_call_format import ToolCallFormat

MAX_TOOL_CALLS = 16  # in one output; a small model that may go on does not stop

# At most this much white space in one place, for the same reason.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


@dataclass(frozen=True, slots=True)
class GrammarFragment:
    """The right-hand side of a Lark rule.

    It refers to `client_grammar`, a complete grammar of the client's own, as @client. Empty means that there is none.
    """

    expression: str
    client_grammar: str = ""


@dataclass(frozen=True, slots=True)
class ToolCallRule:
    """Which tool calls an output may hold, or must if `required`: tool names, each with its arguments' fragment."""

    format: ToolCallFormat
    tools: tuple[tuple[str, GrammarFragment], ...]
    required: bool
    parallel: bool


def json_fragment(schema: Mapping[str, Any], *, lenient: bool = False) -> GrammarFragment:
    """JSON that follows the schema. `lenient` ignores the keywords that llguidance does not implement."""
    options: dict[str, Any] = {"whitespace_pattern": _WHITESPACE}
    if lenient:
        options["lenient"] = True
    return GrammarFragment(f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}")


def regex_fragment(pattern: str) -> GrammarFragment:
    """Text whose entirety matches the pattern, in the syntax of Rust's regex crate. Raises ValueError."""
    return GrammarFragment(f"/{regex_to_lark(pattern)}/" if pattern else '""')


def choice_fragment(choices: Sequence[str]) -> GrammarFragment:
    """Exactly one of the texts."""
    return GrammarFragment("(" + " | ".join(_quote(choice) for choice in choices) + ")")


def client_grammar_fragment(text: str) -> GrammarFragment:
    """A client's own grammar, in Lark or llama.cpp's GBNF. Raises ValueError."""
    return GrammarFragment("@client", grammar_from("grammar", text))


def build_output_grammar(
    content: GrammarFragment | None,
    reasoning: ReasoningFormat | None = None,
    calls: ToolCallRule | None = None,
    marker_tokens: Mapping[str, int] | None = None,
) -> str:
    """Returns what Sampling.grammar takes, empty where nothing constrains the output.

    `marker_tokens` are the markers of reasoning and calls that are single tokens of the model, with their ids; without
    it markers are written as text.
    """
    tokens = marker_tokens or {}
    if content is None and calls is None:
        return ""
    lines = ["TEXT: /(.|\\n)*/"]
    # Ordinary text can begin like a marker that is ordinary text, so an optional thought needs a token to start it.
    if reasoning and (reasoning.opened_by_prompt or reasoning.start_marker in tokens):
        lines += ["start: thinking output", *_reasoning_rules(reasoning, tokens)]
    else:
        lines.append("start: output")
    grammars: dict[str, str] = {}  # the client's, by name
    if calls:
        tools = tuple(
            (name, _named(f"client_{n}", arguments, grammars)) for n, (name, arguments) in enumerate(calls.tools)
        )
        alternative = None if calls.required or content is None else _named("client", content, grammars)
        lines += _call_rules(replace(calls, tools=tools), alternative, tokens)
    elif content:
        lines.append(f"output: {_named('client', content, grammars).expression}")
    lark = "\n".join(lines)
    if not grammars:
        return lark
    named = {"output": lark} | grammars
    return json.dumps({"grammars": [{"name": name, "lark_grammar": text} for name, text in named.items()]})


def _named(name: str, fragment: GrammarFragment, grammars: dict[str, str]) -> GrammarFragment:
    """The fragment with its own grammar, if it has one, under this name, and added to `grammars`."""
    if not fragment.client_grammar:
        return fragment
    grammars[name] = fragment.client_grammar
    return replace(fragment, expression=fragment.expression.replace("@client", f"@{name}"))


def _reasoning_rules(reasoning: ReasoningFormat, tokens: Mapping[str, int]) -> list[str]:
    if reasoning.end_marker in tokens:
        lines = [f"thought: TEXT {_literal(reasoning.end_marker, tokens)}"]
    else:
        lines = [f"thought[lazy]: /(.|\\n)*{_escape(reasoning.end_marker)}/"]
    complete = "thought /[ \\n]{0,4}/"
    if not reasoning.opened_by_prompt:
        complete = f"({_literal(reasoning.start_marker, tokens)} {complete})?"
    return [*lines, f"thinking: {complete}"]


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
    # The marker starts a call whichever way it is tokenized: as its own token or as ordinary ones.
    marked = f"tagged | TEXT {_literal(form.marker, tokens)}" if form.marker in tokens else "tagged"
    return [
        *lines,
        f"output: TEXT | marked {_literal(form.opening.removeprefix(form.marker), tokens)} calls",
        f"marked: {marked}",
        f"tagged[lazy]: /(.|\\n)*{_escape(form.marker)}/",
    ]


def _literal(text: str, tokens: Mapping[str, int]) -> str:
    """Returns the text as a Lark expression in which the model's marker tokens are written by their ids."""
    pieces: list[str] = []
    while text:
        found = [(at, -len(token), token) for token in tokens if (at := text.find(token)) >= 0]
        at, _, token = min(found, default=(len(text), 0, ""))
        if at:
            pieces.append(_quote(text[:at]))
        if token:
            pieces.append(f"<[{tokens[token]}]>")
        text = text[at + len(token) :]
    return " ".join(pieces)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(text: str) -> str:
    return "".join(character if character.isalnum() or character in "<>_ " else f"\\{character}" for character in text)
