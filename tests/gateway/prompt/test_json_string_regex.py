r"""Regular expressions inside a JSON string: every character in its one escaped form."""

from __future__ import annotations

import json

import pytest

from gateway.prompt.json_string_regex import ESCAPED, quote_regex
from tests.gateway.prompt.test_json_string_grammar import matches

CHARACTERS = [*map(chr, range(128)), "é", "\x85", "\u2028", "😀"]

# Each matches single characters.
CLASSES = [
    ".",
    "(?s:.)",
    "(?s).",
    "(?s)(?-s:.)",
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    r"\n",
    r"\x0a",
    r"\x{1F}",
    r"é",
    r"\"",
    r"\\",
    r"\/",
    r"\.",
    r"\p{Lu}",
    r"\p{Cc}",
    r"\pP",
    r"[^\"]",
    r'[^"\\\n]',
    r"[\x00-\x22]",
    r"[\n\t ]",
    r"[]a]",
    r"[^]a]",
    r"[a-]",
    r"[\]\/\-\[]",
    r"[\d\s]",
    r"[^\S\n]",
    r"[!-\\]",
    r"(?:a|\n)",
    r"(?P<name>\\)",
    r"(?i)[k\n]",
    r"(?i:\n|K)",
]


@pytest.mark.parametrize("pattern", CLASSES)
def test_each_character_in_its_escaped_form(pattern: str) -> None:
    lark = f"start: T\nT: /{pattern}/"
    quoted = f"start: T\nT: /{quote_regex(pattern)}/"
    for character in CHARACTERS:
        escaped = json.dumps(character, ensure_ascii=False)[1:-1]
        assert matches(quoted, escaped) == matches(lark, character), character
        if character in ESCAPED:
            assert not matches(quoted, character)
            assert escaped == escaped.upper() or not matches(quoted, escaped.upper())


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"a{2,3}", "aaa"),
        (r"\n{2}", "\n\n"),
        (r"([^\n]+\n)*", 'a "b"\n\\\n'),
        (r"(a|b\n)+?c", "ab\nc"),
        (r"\{\}", "{}"),
    ],
)
def test_structure_stays(pattern: str, text: str) -> None:
    assert matches(f"start: T\nT: /{quote_regex(pattern)}/", json.dumps(text)[1:-1])


def test_flags_of_the_whole() -> None:
    assert matches(f"start: T\nT: /{quote_regex('a.B', ignore_case=True, dot_all=True)}/is", "A\\nb")
    assert not matches(f"start: T\nT: /{quote_regex('a.B', ignore_case=True, dot_all=True)}/is", "A\\Nb")


@pytest.mark.parametrize(
    "pattern",
    [
        *("^a", "a$", r"\ba", r"\Aa", "(?=a)", "(?!a)", "(?<=a)", "(?x: a)", r"(a)\1"),
        *("[[:alpha:]]", "[a-z&&[b]]", "[a", "[z-a]", "[a--b]", r"\p{Greek}", r"\x{110000}", "a{", "\\"),
    ],
)
def test_what_has_no_such_form_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"/.*/: "):
        quote_regex(pattern)
