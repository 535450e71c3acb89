"""JSON as clients write it: counted before it is parsed, parsed with lone surrogates replaced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

_SLICE = 1 << 16  # bytes that are counted at once, in less than 5 ms whatever they are
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# What parsing costs, measured: seconds for each byte of a text that is not ASCII, escape, string or object, value, and
# byte outside strings, which may be a digit of a long number.
_BYTE_SECONDS = 2.5e-9
_ESCAPE_SECONDS = 20e-9
_STRING_SECONDS = 400e-9
_VALUE_SECONDS = 20e-9
_OUTSIDE_SECONDS = 3e-9


@dataclass(slots=True)
class JsonSize:
    """What a text has outside its strings: `values` are counted by commas, `strings` are keys, objects and arrays too.

    `seconds` estimates how long parsing takes. `code_points`: there is an escape such as \\u0041.
    """

    values: int = 1
    strings: int = 0
    seconds: float = 0.0
    code_points: bool = False


def count_json(text: bytes) -> Iterator[JsonSize]:
    """Yields after each slice what was found so far, always the same object. Valid JSON is counted exactly."""
    size = JsonSize()
    per_byte = 0.0 if text.isascii() else _BYTE_SECONDS
    in_string, start = False, 0
    while start < len(text):
        end = start + _SLICE
        if _ends_in_escape(text, start, end):
            end += 1
        part = text[start:end]
        start = end
        escapes = part.count(b"\\")
        if escapes:
            size.code_points = size.code_points or b"\\u" in part
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = part.split(b'"')
        outside = b"".join(pieces[1::2] if in_string else pieces[::2])
        quotes = len(pieces) - 1
        begun = quotes // 2 if in_string else (quotes + 1) // 2
        in_string ^= quotes % 2 == 1
        values, strings = outside.count(b","), begun + outside.count(b"{") + outside.count(b"[")
        size.values += values
        size.strings += strings
        size.seconds += len(part) * per_byte + escapes * _ESCAPE_SECONDS
        size.seconds += values * _VALUE_SECONDS + strings * _STRING_SECONDS + len(outside) * _OUTSIDE_SECONDS
        yield size


def _ends_in_escape(text: bytes, start: int, end: int) -> bool:
    """Whether the last byte is a backslash that begins an escape: an odd number of them stands there."""
    part = text[start:end]
    return (len(part) - len(part.rstrip(b"\\"))) % 2 == 1


def parse_object(text: bytes) -> dict[str, Any]:
    """As parse_json. Raises ValueError for anything but an object, with a message for the client."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("The body must be a JSON object.")
    return value


def parse_json(text: bytes) -> Any:
    """The value. Half a surrogate pair, which is no character, becomes U+FFFD. Raises ValueError."""
    try:
        return from_json(text, allow_inf_nan=True)
    except ValueError as error:
        if "surrogate" not in str(error) and "hex escape" not in str(error):
            raise
        fault = error
    try:
        return _without_surrogates(json.loads(text))
    except (ValueError, RecursionError):
        raise fault from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _mend(value)
    if isinstance(value, list):
        return [_without_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {_mend(key): _without_surrogates(entry) for key, entry in value.items()}
    return value


def _mend(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(_REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text)
    return text
