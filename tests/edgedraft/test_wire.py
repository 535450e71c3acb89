"""Wire format: messages survive encoding, bounds are checked, and invalid frames raise WireError and nothing else."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from edgedraft import wire
from edgedraft.wire import (
    AgentChanged,
    AgentWelcome,
    Close,
    Commit,
    Draft,
    FrameDecoder,
    Hello,
    ModelCard,
    Open,
    Queued,
    Sampling,
    VerifierWelcome,
    WireError,
)
from gateway.replicas.messages import (
    RequestSlot,
    SlotGranted,
    SlotQueued,
    SlotUsage,
    decode_to_host,
    decode_to_requester,
)

CARD = ModelCard(
    name="target",
    fingerprint="f" * 64,
    vocab_size=49152,
    context_length=8192,
    eos=(0, 2),
    tokenizer=b"\x78\x9c",
    chat_template="{{ messages }}",
    bos_token="<s>",
    eos_token="</s>",
)
SAMPLING = Sampling(temperature=0.7, top_k=50, top_p=0.9, min_p=0.05, seed=2**63 - 1)
DRAFT = Draft(session=3, epoch=2, at=17, first=5, tokens=[7, 8, 9], parents=[0, 5, 5], confidence=b"\x00\x10\xff")
MESSAGES: list[tuple[FrameDecoder[Any], Struct]] = [
    (wire.decode_from_agent, Hello(protocol=1, name="laptop", fingerprint="f" * 64, drafter="small", max_sessions=8)),
    (wire.decode_from_agent, DRAFT),
    (wire.decode_to_agent, AgentWelcome(protocol=1, agent="a1", model="target", vocab_size=49152, max_sessions=8)),
    (
        wire.decode_to_agent,
        Open(
            session=2**53,
            prompt=[1, 2, 3],
            sampling=SAMPLING,
            max_tokens=128,
            committed=[4],
            window=wire.MAX_WINDOW,
            epoch=7,
            eos=(0, 2),
            agent="laptop",
        ),
    ),
    (wire.decode_to_agent, Open(session=1, prompt=[], sampling=Sampling(), max_tokens=1)),
    (wire.decode_to_agent, Commit(1, 17, [7, 9], 16, 8, 4, 1, 0.0125, "stop")),
    (wire.decode_to_agent, Close(session=1, code=wire.CLOSE_FAILED, reason="out of memory")),
    (wire.decode_from_verifier, VerifierWelcome(protocol=1, card=CARD, max_sessions=64)),
    (wire.decode_from_verifier, Commit(1, 0, [])),
    (wire.decode_from_verifier, Queued(session=1, ahead=3)),
    (wire.decode_from_verifier, wire.Progress(session=1, computed=512, total=4096)),
    (wire.decode_from_verifier, wire.Spent("use_1", 2, 1.5, 4096, 16)),
    (wire.decode_from_verifier, Close(session=1, code=wire.CLOSE_OVERLOADED, reason="full", retry_after=2.5)),
    (wire.decode_to_verifier, Hello(protocol=1)),
    (wire.decode_to_verifier, Open(session=1, prompt=[0, 2**31 - 1], sampling=SAMPLING, max_tokens=1)),
    (wire.decode_to_verifier, DRAFT),
    (wire.decode_to_verifier, AgentChanged(session=1, agent="laptop")),
    (wire.decode_to_verifier, wire.SpentRecorded("use_1", 2)),
    (wire.decode_to_verifier, Close(session=1)),
    (decode_to_host, RequestSlot(1, "default", "ann", "f" * 64, 49152)),
    (decode_to_requester, SlotGranted(1, "ab12", 2)),
    (decode_to_requester, SlotQueued(1)),
    (decode_to_requester, SlotUsage(1, 0.5, 3)),
]
EVERY = [
    wire.decode_from_agent,
    wire.decode_to_agent,
    wire.decode_from_verifier,
    wire.decode_to_verifier,
    decode_to_host,
    decode_to_requester,
]


def raw(*messages: object) -> bytes:
    return msgspec.msgpack.encode(messages)


def fields(message: Struct) -> list[Any]:
    """The message as the array that is sent."""
    return msgspec.msgpack.decode(wire.encode_frame([message]))[0]


def refused(decoder: FrameDecoder[Any], frame: bytes | str) -> WireError:
    with pytest.raises(WireError) as raised:
        decoder(frame)
    return raised.value


# Round trips


@pytest.mark.parametrize(("decoder", "message"), MESSAGES)
def test_a_message_is_decoded_as_it_was_encoded(decoder: FrameDecoder[Any], message: Struct) -> None:
    assert decoder(wire.encode_frame([message])) == [message]


def test_every_message_of_every_direction_is_tested() -> None:
    directions = {
        wire.decode_from_agent: wire.FromAgent,
        wire.decode_to_agent: wire.ToAgent,
        wire.decode_from_verifier: wire.FromVerifier,
        wire.decode_to_verifier: wire.ToVerifier,
    }
    for direction, union in directions.items():
        assert {type(message) for decoder, message in MESSAGES if decoder is direction} == set(union.__args__)


def test_a_frame_keeps_its_order() -> None:
    messages = [Close(session=1), DRAFT, AgentChanged(session=1), DRAFT]
    assert wire.decode_to_verifier(wire.encode_frame(messages)) == messages
    assert wire.decode_to_verifier(wire.encode_frame([])) == []


# Sizes


def test_a_draft_of_32_nodes_fits_in_250_bytes() -> None:
    """Ten thousand tokens into a session, two hundred into an epoch, with the vocabulary of the demo models."""
    draft = Draft(1000, 300, 10_000, 200, [49_151] * 32, list(range(199, 231)), bytes([200] * 32))
    assert len(wire.encode_frame([draft])) <= 250


def test_a_draft_of_32_nodes_is_small_at_any_size_of_vocabulary() -> None:
    draft = Draft(2**53, 2**53, 2**31 - 1, 60_000, [2**31 - 1] * 32, [59_999] * 32, bytes(32))
    assert len(wire.encode_frame([draft])) <= 360


def test_a_draft_of_one_node_and_a_commit_are_a_few_bytes() -> None:
    assert len(wire.encode_frame([Draft(1000, 300, 10_000, 500, [49_151], [499], b"a")])) <= 32
    assert len(wire.encode_frame([Commit(1000, 10_000, [49_151] * 4, 32, 8, 4, 3, 0.01)])) <= 48


def test_the_largest_correct_agent_frame_is_far_below_the_limit() -> None:
    draft = Draft(2**53, 2**53, 2**31 - 1, 2**53, [2**31 - 1] * 64, [2**53] * 64, bytes(64))
    assert len(wire.encode_frame([draft] * 256)) < wire.MAX_AGENT_FRAME


# Later protocol versions


@pytest.mark.parametrize(("decoder", "message"), MESSAGES)
def test_fields_appended_to_a_message_pass(decoder: FrameDecoder[Any], message: Struct) -> None:
    assert decoder(raw([*fields(message), "new", {"deep": [1, {"er": None}]}])) == [message]


def test_fields_added_to_the_maps_within_pass() -> None:
    opened = fields(Open(session=1, prompt=[1], sampling=SAMPLING, max_tokens=1))
    opened[3]["mirostat"] = 2
    assert wire.decode_to_verifier(raw(opened)) == [Open(session=1, prompt=[1], sampling=SAMPLING, max_tokens=1)]
    welcome = fields(VerifierWelcome(protocol=1, card=CARD, max_sessions=64))
    welcome[2]["modalities"] = ["text"]
    assert wire.decode_from_verifier(raw(welcome)) == [VerifierWelcome(protocol=1, card=CARD, max_sessions=64)]


def test_fields_with_a_default_may_be_missing() -> None:
    assert wire.decode_from_agent(raw(["hello", 1])) == [Hello(protocol=1)]
    assert wire.decode_from_verifier(raw(["commit", 1, 0, [5]])) == [Commit(1, 0, [5])]


# The handshake


def test_expect_hello_returns_the_hello() -> None:
    hello = Hello(protocol=wire.PROTOCOL, name="laptop")
    assert wire.expect_hello([hello]) is hello


@pytest.mark.parametrize("protocol", [0, wire.PROTOCOL + 1, -1, 2**40])
def test_an_unknown_protocol_is_named_in_the_error(protocol: int) -> None:
    with pytest.raises(WireError) as raised:
        wire.expect_hello(wire.decode_from_agent(raw(["hello", protocol, "laptop"])))
    assert raised.value.code == wire.VERSION
    assert str(protocol) in raised.value.reason
    assert str(wire.PROTOCOL) in raised.value.reason


@pytest.mark.parametrize(
    "messages", [[], [DRAFT], [DRAFT, Hello(protocol=1)], [Hello(protocol=1), DRAFT], [Hello(protocol=1)] * 2]
)
def test_anything_but_one_hello_first_is_a_bad_frame(messages: list[Any]) -> None:
    with pytest.raises(WireError) as raised:
        wire.expect_hello(messages)
    assert raised.value.code == wire.BAD_FRAME


# Invalid frames

BAD = {
    "nothing": b"",
    "not MessagePack": b"\xc1",
    "JSON": b'[["hello", 1]]',
    "no array": msgspec.msgpack.encode({"type": "hello", "protocol": 1}),
    "no message": raw(1),
    "a map for a message": raw({"type": "hello", "protocol": 1}),
    "no tag": raw([]),
    "unknown tag": raw(["nonsense", 1]),
    "another direction's message": raw(["close", 1]),
    "too few fields": raw(["hello"]),
    "cut short": wire.encode_frame([DRAFT])[:-1],
    "trailing garbage": wire.encode_frame([DRAFT]) + b"\x00",
    "two frames in one": wire.encode_frame([DRAFT]) * 2,
    "bad UTF-8": b"\x91\x93\xa5hello\x01\xa1\xff",
    "a name too long": raw(["hello", 1, "x" * 257]),
    "too many sessions": raw(["hello", 1, "", "", "", 4097]),
    "an array that claims to be huge": b"\xdd\xff\xff\xff\xff",
    "tokens that claim to be many": b"\x91\x98\xa5draft\x01\x01\x00\x01\xdd\xff\xff\xff\xff",
    "bytes that claim to be many": b"\x91\x98\xa5draft\x01\x01\x00\x01\x91\x01\x91\x00\xc6\xff\xff\xff\xff",
    "nested arrays": b"\x91" * wire.MAX_AGENT_FRAME,
    "nested in an unknown field": b"\x91\x97\xa5hello\x01\xa0\xa0\xa0\x00" + b"\x91" * 200_000,
    "nested maps in an unknown field": b"\x91\x97\xa5hello\x01\xa0\xa0\xa0\x00" + b"\x81" * 200_000,
}


@pytest.mark.parametrize("name", BAD)
def test_an_invalid_frame_is_a_bad_frame(name: str) -> None:
    error = refused(wire.decode_from_agent, BAD[name])
    assert error.code == wire.BAD_FRAME
    assert error.reason


def test_text_frames_are_refused() -> None:
    for decoder in EVERY:
        assert refused(decoder, "[]").code == wire.BAD_FRAME


@pytest.mark.parametrize("bad", [-1, 2**53 + 1, 2**64 - 1, 1.5, math.nan, True, None, "1", [1], b"1"])
@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_numbers_of_a_draft_out_of_bounds_are_refused(place: int, bad: object) -> None:
    draft = fields(DRAFT)
    draft[place] = bad
    assert refused(wire.decode_from_agent, raw(draft)).code == wire.BAD_FRAME
    assert refused(wire.decode_to_verifier, raw(draft)).code == wire.BAD_FRAME


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        (1, 0),
        (3, 2**31),
        (5, []),
        (5, [1] * 65),
        (5, [-1]),
        (5, [2**31]),
        (6, [0] * 65),
        (6, [-1]),
        (6, [2**53 + 1]),
        (7, bytes(65)),
        (7, "text"),
        (7, [1, 2, 3]),
    ],
)
def test_columns_of_a_draft_out_of_bounds_are_refused(place: int, bad: object) -> None:
    draft = fields(DRAFT)
    draft[place] = bad
    assert refused(wire.decode_from_agent, raw(draft)).code == wire.BAD_FRAME


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", -0.1),
        ("temperature", 101.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("seed", -1),
        ("seed", 2**63),
    ],
)
def test_sampling_out_of_bounds_is_refused(name: str, bad: object) -> None:
    assert refused(wire.decode_to_verifier, raw(["open", 1, [1], {name: bad}, 1])).code == wire.BAD_FRAME


@pytest.mark.parametrize(
    ("place", "bad"), [(1, 0), (2, [-1]), (2, [2**31]), (4, 0), (5, [-1]), (6, -1), (6, wire.MAX_WINDOW + 1), (7, -1)]
)
def test_an_open_out_of_bounds_is_refused(place: int, bad: object) -> None:
    opened = fields(Open(session=1, prompt=[1], sampling=SAMPLING, max_tokens=1))
    opened[place] = bad
    assert refused(wire.decode_to_verifier, raw(opened)).code == wire.BAD_FRAME
    assert refused(wire.decode_to_agent, raw(opened)).code == wire.BAD_FRAME


@pytest.mark.parametrize(
    ("place", "bad"), [(1, 0), (2, -1), (3, [-1]), (4, -1), (4, wire.MAX_WINDOW + 1), (9, "tired")]
)
def test_a_commit_out_of_bounds_is_refused(place: int, bad: object) -> None:
    commit = fields(Commit(1, 0, [1]))
    commit[place] = bad
    assert refused(wire.decode_from_verifier, raw(commit)).code == wire.BAD_FRAME
    assert refused(wire.decode_to_agent, raw(commit)).code == wire.BAD_FRAME


def test_as_many_messages_as_a_frame_holds() -> None:
    many = [Close(session=1)] * wire.MAX_MESSAGES
    assert wire.decode_to_verifier(wire.encode_frame(many)) == many
    assert refused(wire.decode_to_verifier, wire.encode_frame([*many, many[0]])).code == wire.BAD_FRAME


def test_a_frame_too_large_is_rejected_without_being_decoded() -> None:
    error = refused(wire.decode_from_agent, bytes(wire.MAX_AGENT_FRAME + 1))
    assert error.code == wire.TOO_LARGE
    assert str(wire.MAX_AGENT_FRAME) in error.reason
    assert refused(wire.decode_from_agent, bytes(wire.MAX_AGENT_FRAME)).code == wire.BAD_FRAME
    assert refused(wire.decode_to_agent, bytes(wire.MAX_FRAME_TO_AGENT + 1)).code == wire.TOO_LARGE


def test_a_reason_fits_in_a_close_frame() -> None:
    """RFC 6455 section 5.5: a control frame holds 125 bytes, two of them the code; and never half a character."""
    for reason in ("x" * 500, "\u20ac" * 100, "ok"):
        error = WireError(wire.BAD_FRAME, reason)
        assert len(error.reason.encode()) <= 123
        assert reason.startswith(error.reason)
        assert error.reason


# Confidence


def test_a_confidence_is_sixteenths_of_a_bit() -> None:
    assert [wire.confidence_byte(p) for p in (1.0, 0.5, 0.25, 2**-15.9375)] == [0, 16, 32, 255]
    assert [wire.confidence_byte(p) for p in (0.0, 1e-30, 2**-20, -1.0, 1.5)] == [255, 255, 255, 255, 0]
    for byte in range(256):
        assert wire.confidence_byte(wire.confidence_probability(byte)) == byte


def test_confidences_add_along_a_path() -> None:
    assert wire.confidence_probability(16 + 32) == pytest.approx(0.5 * 0.25)
