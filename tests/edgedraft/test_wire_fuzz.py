"""Wire format under random and mutated frames: a decoder raises WireError or returns valid messages."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from edgedraft import wire
from edgedraft.wire import Commit, WireError
from tests.edgedraft.test_wire import EVERY, MESSAGES, fields, raw

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**53, 2**53 + 1])
TREES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def check_decoders(frame: bytes) -> None:
    """Every decoder raises WireError or returns messages that survive encoding."""
    for decoder in EVERY:
        try:
            messages = decoder(frame)
        except WireError:
            continue
        assert has_nan(messages) or decoder(wire.encode_frame(messages)) == messages


def has_nan(messages: list[Any]) -> bool:
    return any(isinstance(message, Commit) and math.isnan(message.seconds) for message in messages)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes(frame: bytes) -> None:
    check_decoders(frame)


@settings(deadline=None, max_examples=200)
@given(st.lists(TREES, max_size=4))
def test_any_messagepack(document: list[Any]) -> None:
    check_decoders(msgspec.msgpack.encode(document))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([message for _, message in MESSAGES]), st.data())
def test_messages_with_any_field_replaced(message: Struct, data: st.DataObject) -> None:
    array = fields(message)
    for _ in range(data.draw(st.integers(1, 3))):
        array[data.draw(st.integers(0, len(array) - 1))] = data.draw(TREES)
    check_decoders(raw(array))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([message for _, message in MESSAGES]), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from("sidc")), min_size=1, max_size=4),
)
def test_valid_frames_with_bytes_changed(messages: list[Struct], changes: list[tuple[int, int, str]]) -> None:
    frame = bytearray(wire.encode_frame(messages))
    for place, value, how in changes:
        at = place % (len(frame) or 1)
        if how == "i":
            frame.insert(at, value)
        elif how == "c":
            del frame[at:]
        elif how == "d":
            del frame[at : at + 1]
        elif frame:
            frame[at] = value
    check_decoders(bytes(frame))
