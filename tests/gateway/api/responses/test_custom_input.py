"""A custom tool's input, read out of arguments that come in pieces of any size."""

from __future__ import annotations

import json

import pytest

from gateway.api.responses.custom_input import CustomInput

TEXTS = ["", "a", 'line "one"\n\\two\t\x01', "é😀\U0010ffff", "\\", '"}', "{}"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_make_the_text(text: str, ascii_only: bool, size: int) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    custom = CustomInput()
    pieces = [custom.add(arguments[start : start + size]) for start in range(0, len(arguments), size)]
    assert "".join(pieces) == custom.text == text
    for piece in pieces:
        piece.encode()


def test_what_follows_the_text_is_no_part_of_it() -> None:
    custom = CustomInput()
    assert custom.add(' {\n "input" :  "a') == "a"
    assert custom.add('b" }') == "b"
    assert custom.add('"c') == ""
    assert custom.text == "ab"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"inp', ""), ('{"input": "a\\', "a"), ('{"input": "a\\u00', "a"), ('{"input": "a\\ud83d', "a")],
)
def test_a_cut_call_has_whole_characters(arguments: str, text: str) -> None:
    custom = CustomInput()
    custom.add(arguments)
    assert custom.text == text


def test_half_a_pair_becomes_a_replacement_character() -> None:
    custom = CustomInput()
    custom.add('{"input": "\\ud83d\\ud83d\\ude00 \\ude00x"}')
    assert custom.text == "�😀 �x"
