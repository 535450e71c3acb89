"""The meter of frames on the library's own parser: what is let through, what stops it, and that it is called at all."""

from __future__ import annotations

import pytest
from websockets.protocol import OPEN, SERVER, Protocol

from edgedraft.links.frame_meter import FrameLimits, FrameMeter
from tests.support.raw_websocket import BINARY, CONT, PING, PONG, frame

LIMITS = FrameLimits(control_rate=1e-9, control_burst=5, fragments=4, fragment_bytes=10, frames_per_read=50)


def metered() -> tuple[Protocol, FrameMeter]:
    protocol = Protocol(SERVER, state=OPEN, max_size=1 << 16)
    return protocol, FrameMeter(protocol, LIMITS)


def message(fragments: int, payload: bytes = b"") -> bytes:
    middle = frame(CONT, payload, fin=False) * (fragments - 2)
    return frame(BINARY, payload, fin=False) + middle + frame(CONT, payload)


def test_the_library_calls_the_meter_for_every_frame() -> None:
    protocol, meter = metered()
    meter.begin_read()
    protocol.receive_data(frame(BINARY, b"x") * 50)
    assert len(protocol.events_received()) == 50
    assert not meter.exceeded
    protocol.receive_data(frame(BINARY, b"x"))
    assert meter.exceeded == "too many frames at once"
    assert protocol.parser_exc is not None
    assert not protocol.events_received()


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_have_a_budget(opcode: int) -> None:
    protocol, meter = metered()
    for _ in range(5):
        meter.begin_read()
        protocol.receive_data(frame(opcode, b"x"))
    assert not meter.exceeded
    meter.begin_read()
    protocol.receive_data(frame(opcode, b"x"))
    assert meter.exceeded == "too many control frames"


def test_so_have_fragments_of_one_message() -> None:
    protocol, meter = metered()
    for _ in range(3):
        meter.begin_read()
        protocol.receive_data(message(4))
    assert not meter.exceeded
    protocol.receive_data(message(5))
    assert meter.exceeded == "too many fragments in one message"


def test_fragments_that_hold_something_are_let_through() -> None:
    protocol, meter = metered()
    meter.begin_read()
    protocol.receive_data(message(30, b"0123456789"))
    assert not meter.exceeded


def test_a_frame_before_the_handshakes_end_is_refused() -> None:
    protocol, meter = metered()
    meter.begin_read(early=True)
    protocol.receive_data(frame(BINARY, b"x"))
    assert meter.exceeded == "a frame before the handshake's end"
