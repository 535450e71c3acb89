"""JSON as clients write it: what is counted before parsing, and lone surrogates."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.bodies.json_text import count_json, parse_json
from tests.support.processor_time import step_seconds

VALUES = st.recursive(
    st.none() | st.integers(0, 9) | st.text('a"\\,[{é\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\,[', max_size=3), inner, max_size=4),
)


def strings_in(value: object) -> int:
    if isinstance(value, str):
        return 1
    if isinstance(value, list):
        return 1 + sum(map(strings_in, value))
    if isinstance(value, dict):
        return 1 + sum(1 + strings_in(entry) for entry in value.values())
    return 0


@given(VALUES, st.booleans())
def test_strings_are_counted_as_the_parser_finds_them(value: object, ascii_only: bool) -> None:
    *_, size = count_json(json.dumps(value, ensure_ascii=ascii_only).encode())
    assert size.strings == strings_in(value)


@pytest.mark.parametrize("filler", ['\\"', "\\\\", "a", ",", '\\\\\\"'])
@pytest.mark.parametrize("shift", range(4))
def test_strings_that_are_longer_than_a_slice_are_one(filler: str, shift: int) -> None:
    text = f'[{" " * shift}"{filler * 100_000}", 1, {{"a": 2}}]'.encode()
    *_, size = count_json(text)
    assert (size.values, size.strings) == (3, 4)


def test_values_are_counted_by_their_commas() -> None:
    *_, size = count_json(b'{"a": [1, 2, 3], "b,": "," }')
    assert size.values == 4


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (r'"hi \ud83d."', "hi \ufffd."),
        (r'"\ude00"', "\ufffd"),
        (r'"\ud83d"', "\ufffd"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ud83d\u0041"', "\ufffdA"),
        (r'"\\ud83d"', r"\ud83d"),
        (r'{"\ude00": ["\ud83d", 1]}', {"\ufffd": ["\ufffd", 1]}),
    ],
)
def test_half_a_surrogate_pair_is_a_replacement_character(text: str, parsed: object) -> None:
    assert parse_json(text.encode()) == parsed


@pytest.mark.parametrize("text", [b'{"a": "\\ud8', b'"\\ud83d" x', b"{", b'"\xed\xa0\xbd"', b'"\\ude00' + b"[" * 9])
def test_what_is_no_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError, match="column"):
        parse_json(text)


@pytest.mark.parametrize("unit", [b"{},", b'"",', b'\\"', b"1,", b'"a":1,', "é".encode(), b"\\", b'"'])
def test_counting_grows_with_the_text_and_no_slice_takes_long(unit: bytes) -> None:
    seconds = step_seconds(count_json(unit * ((1 << 21) // len(unit))))
    assert len(seconds) > 30
    assert max(seconds) < sum(seconds) / 3
