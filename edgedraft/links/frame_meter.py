"""Meters the frames of one WebSocket that its application never sees: control frames, fragments, floods in one read.

The `websockets` library parses the bytes of every end of every link, ASGI servers' included, and calls its protocol's
`recv_frame` for each frame. That method is no documented interface: it is replaced here and nowhere else, and
tests/edgedraft/links/test_frame_meter.py fails when the library stops calling it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol

BINARY = Opcode.BINARY
_CONTROL = frozenset({Opcode.CLOSE, Opcode.PING, Opcode.PONG})


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What a peer may send in frames of which its messages do not consist. A correct peer reaches none of it.

    control_rate, control_burst: pings, pongs and closing frames per second, and at once after a pause.
    fragments: that one message may have; beyond them a fragment must hold `fragment_bytes` on average.
    frames_per_read: that one read of the socket may hold, which are buffered before reading can be paused.
    """

    control_rate: float = 8.0
    control_burst: int = 64
    fragments: int = 64
    fragment_bytes: int = 4096
    frames_per_read: int = 4096


class FrameFlood(ProtocolError):
    """The peer exceeds the limits; its connection is to be aborted."""


class FrameMeter:
    """The meter of one connection. Call `begin_read` before each read of the socket is parsed.

    `exceeded` is what the peer has overdone, empty while it keeps to the limits: the parser has then stopped.
    """

    def __init__(self, protocol: Protocol, limits: FrameLimits) -> None:
        self.exceeded = ""
        self._limits = limits
        self._frames_per_read = self._frames_left = limits.frames_per_read
        self._fragments = self._bytes = 0
        self._control = float(limits.control_burst)
        self._control_at = time.monotonic()
        self._early = False
        self._pass_on: Callable[[Frame], None] = protocol.recv_frame
        protocol.recv_frame = self._take  # type: ignore[method-assign]

    def begin_read(self, early: bool = False) -> None:
        """A read of the socket is parsed next. While it is `early`, before the handshake's end, no frame is due."""
        self._early = early
        self._frames_left = 0 if early else self._frames_per_read

    def _take(self, frame: Frame) -> None:
        """Count a frame and pass it on. Raises FrameFlood, at which the library's parser stops."""
        self._frames_left -= 1
        if self._frames_left < 0:
            self._refuse("a frame before the handshake's end" if self._early else "too many frames at once")
        if frame.opcode is not BINARY or not frame.fin:  # an ordinary frame costs no more than this
            self._count(frame)
        self._pass_on(frame)

    def _count(self, frame: Frame) -> None:
        if frame.opcode in _CONTROL:
            self._count_control()
        elif not frame.fin or frame.opcode is Opcode.CONT:
            self._count_fragment(frame)

    def _count_control(self) -> None:
        now = time.monotonic()
        limits = self._limits
        refilled = self._control + (now - self._control_at) * limits.control_rate
        self._control = min(refilled, limits.control_burst) - 1
        self._control_at = now
        if self._control < 0:
            self._refuse("too many control frames")

    def _count_fragment(self, frame: Frame) -> None:
        self._fragments += 1
        self._bytes += len(frame.data)
        if self._fragments > self._limits.fragments + self._bytes // self._limits.fragment_bytes:
            self._refuse("too many fragments in one message")
        if frame.fin:
            self._fragments = self._bytes = 0

    def _refuse(self, reason: str) -> None:
        self.exceeded = reason
        raise FrameFlood(reason)


FRAME_LIMITS = FrameLimits()  # of every link: a control frame is a control frame everywhere
