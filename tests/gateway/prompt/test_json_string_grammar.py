"""A client's Lark grammar inside a JSON string: the same texts, in their escaped form."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from llguidance import LLMatcher, LLTokenizer

from edgedraft.grammar.compiler import try_grammar
from gateway.limits.request_bounds import MAX_GRAMMAR_CHARACTERS
from gateway.model.tool_call_format import HERMES, MISTRAL, ToolCallFormat
from gateway.prompt.json_string_grammar import quote_grammar, text_argument_fragment
from gateway.prompt.output_grammar import ToolCallRule, build_output_grammar
from tests.support.processor_time import assert_linear

TOKENIZER = LLTokenizer("byte")

PATCH = """
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
ADDED = '*** Begin Patch\n*** Add File: a"b\\c.txt\n+hi "you"\t\n+\n*** End Patch'
NESTED = 'start: v\nv: "[" (v ("," v)*)? "]" | NUMBER | ESCAPED_STRING\n%import common (WS, NUMBER, ESCAPED_STRING)\n'

TEXTS = [
    (PATCH, ADDED, True),
    (PATCH, ADDED + "\n", True),
    (PATCH, ADDED.replace("+", ""), False),
    ('start: "a\\nb"i', "A\nB", True),
    ('start: "a\\nb"i', "A\\NB", False),
    ('start: A "z".."~"\nA: "a".."c"', "b|", True),
    ('start: "x".."x" // "y"\n# and "z"', "x", True),
    ('start: "a"~2..3', "aaa", True),
    ('start: "a"~2..3', "aaaa", False),
    ("start: x\nx: INT WS CNAME\n%import common.INT\n%import common (WS, CNAME)", "12 \n ab", True),
    ("start: A\n%import common.LF -> A", "\n", True),
    ('start: "\\"" /[^"]*/ "\\""', '"a\\b\n"', True),
    ('start: "\\"" /[^"]*/ "\\""', '"a"b"', False),
    ("start: B\nB: A & /.{3}/\nA: /[ab]+/", "aba", True),
    ("%llguidance {}\n?start: [_x] y\n_x: /[a-z]/\ny: /[0-9]/", "a1", True),
    ("start: r_x R\nr_x: /a/\nR: /b/", "ab", True),
    ('start: e\ne: e "+" e | /[0-9]+/ | "(" e ")"', "(1+2)+3", True),
    ('start: e\ne: e "+" e | /[0-9]+/ | "(" e ")"', "(1+2", False),
    (NESTED + "%ignore WS", '[1, ["a\\n"]\n]', True),
    (NESTED + "%ignore WS", '[1, ["a\\n"]\n', False),
]


def matches(grammar: str, text: str) -> bool:
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(("lark", "text", "right"), TEXTS)
def test_the_same_texts_match(lark: str, text: str, right: bool) -> None:
    assert matches(lark, text) == right
    assert matches(quote_grammar(lark), json.dumps(text, ensure_ascii=False)[1:-1]) == right


@pytest.mark.parametrize("form", [HERMES, MISTRAL], ids=["hermes", "mistral"])
@pytest.mark.parametrize(
    ("lark", "text"),
    [("start: /.+/", 'ls "}'), ("start: /(.|\\n)*/", 'a}\n</tool_call>"'), (PATCH, ADDED), (NESTED, '[1,["a"]]')],
)
def test_a_call_ends_where_the_text_ends(form: ToolCallFormat, lark: str, text: str) -> None:
    """Even where the grammar would go on for ever."""
    rule = ToolCallRule(form, (("run", text_argument_fragment("input", lark)),), required=True, parallel=False)
    grammar = build_output_grammar(None, None, rule)
    try_grammar(grammar)
    arguments = json.dumps({"input": text}, ensure_ascii=False)
    assert matches(grammar, f"{form.opening}run{form.after_name}{arguments}{form.closing}{form.end}")


@pytest.mark.parametrize(
    "lark",
    [
        "start: <|im_end|>",
        "start: @other",
        'start: %json {"type": "object"}',
        'start: %regex {"substring_words": "a"}',
        'start[stop="x"]: /a/',
        'start: ~A\nA: "a"',
        "start: /a/x",
        'start: "\\q"',
        'start: "ab".."c"',
        'start: "open',
        "%import python.NAME\nstart: NAME",
    ],
)
def test_what_has_no_such_form_is_refused(lark: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        quote_grammar(lark)


def _chain(length: int) -> str:
    return "start: a0\n" + "\n".join(f"a{n}: a{n + 1}" for n in range(length // 16))


HOSTILE: dict[str, Callable[[int], str]] = {
    "symbols": lambda length: "start: " + "a1 " * (length // 3),
    "rules": _chain,
    "slashes": lambda length: "start: " + "/" * length,
    "classes": lambda length: "start: /" + "[" * length,
    "closed classes": lambda length: "start: /" + "[a" * (length // 2) + "/",
    "groups": lambda length: "start: /" + "(?" * (length // 2) + "/",
    "dots": lambda length: "start: /" + "." * length + "/",
    "backslashes": lambda length: 'start: "' + "\\" * length,
    "arrows": lambda length: "start: " + "->" * (length // 2),
    "spaces": lambda length: "start" + " " * length,
    "import": lambda length: "%import common" + " " * length,
    "imports": lambda length: "%import common (" + " ," * (length // 2),
    "marks": lambda length: "!" * length,
}


@pytest.mark.parametrize("lark", HOSTILE.values(), ids=HOSTILE)
def test_rewriting_takes_linear_time(lark: Callable[[int], str]) -> None:
    def rewrite(length: int) -> None:
        with suppress(ValueError):
            quote_grammar(lark(length))

    assert_linear(rewrite, MAX_GRAMMAR_CHARACTERS)
