"""WebSocket frames for the fuzzer: correct ones that carry real messages, and everything that RFC 6455 forbids."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from tests.fuzz.frames import Frames
from tests.support.raw_websocket import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

CLOSE_CODES = (0, 999, 1000, 1001, 1004, 1005, 1006, 1011, 1012, 1015, 1016, 2999, 3000, 4401, 4999, 5000, 65535)
LENGTHS = (126, 65535, 65536, 1 << 18, (1 << 18) + 1, 1 << 26, (1 << 26) + 1, 1 << 31, 1 << 63, (1 << 64) - 1)


class WebSocketFrames:
    """Each `next` gives bytes and how many frames they are; `supply` makes the messages in them."""

    def __init__(self, supply: Frames, rng: Random) -> None:
        self._supply = supply
        self._rng = rng
        self._kinds: list[tuple[Callable[[], tuple[bytes, int]], int]] = [
            (self._message, 30),
            (self._fragmented, 15),
            (self._control, 12),
            (self._bad_control, 6),
            (self._close, 4),
            (self._reserved, 6),
            (self._unmasked, 3),
            (self._false_length, 5),
            (self._out_of_order, 5),
            (self._burst, 5),
            (self._text, 4),
            (self._rubbish, 4),
        ]

    def next(self) -> tuple[bytes, int]:
        kinds, weights = zip(*self._kinds, strict=True)
        return self._rng.choices(kinds, weights)[0]()

    def _payload(self) -> bytes:
        return self._supply.valid() if self._rng.random() < 0.8 else self._supply.next()

    def _some(self, most: int) -> bytes:
        return self._rng.randbytes(self._rng.randint(0, most))

    def _frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
        mask = self._rng.randbytes(4) if len(payload) < 2000 else bytes(4)
        return frame(opcode, payload, fin=fin, reserved=reserved, mask=mask, long=self._rng.random() < 0.03)

    def _message(self) -> tuple[bytes, int]:
        return self._frame(BINARY, self._payload()), 1

    def _fragmented(self) -> tuple[bytes, int]:
        """A message in pieces, with control frames between them, which is allowed."""
        payload, count = self._payload(), self._rng.randint(2, 10)
        cuts = sorted(self._rng.randint(0, len(payload)) for _ in range(count - 1))
        parts, frames = b"", 0
        for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(payload)], strict=True)):
            parts += self._frame(CONT if index else BINARY, payload[start:end], fin=index == count - 1)
            frames += 1
            if index < count - 1 and self._rng.random() < 0.2:
                parts += self._frame(self._rng.choice((PING, PONG)), self._some(125))
                frames += 1
        return parts, frames

    def _control(self) -> tuple[bytes, int]:
        return self._frame(self._rng.choice((PING, PONG)), self._some(125)), 1

    def _bad_control(self) -> tuple[bytes, int]:
        """Fragmented, or too long."""
        opcode = self._rng.choice((PING, PONG, CLOSE))
        if self._rng.random() < 0.5:
            return self._frame(opcode, self._some(60), fin=False), 1
        return self._frame(opcode, self._rng.randbytes(self._rng.choice((126, 127, 300, 70_000)))), 1

    def _close(self) -> tuple[bytes, int]:
        reason = self._rng.choice((b"", b"bye", b"\xff\xfe", self._some(123)))
        payload = self._rng.choice((b"", b"\x03", struct.pack("!H", self._rng.choice(CLOSE_CODES)) + reason))
        return self._frame(CLOSE, payload), 1

    def _reserved(self) -> tuple[bytes, int]:
        if self._rng.random() < 0.5:
            return self._frame(BINARY, self._payload(), reserved=self._rng.randint(1, 7)), 1
        return self._frame(self._rng.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)), self._some(50)), 1

    def _unmasked(self) -> tuple[bytes, int]:
        return frame(BINARY, self._payload(), masked=False), 1

    def _false_length(self) -> tuple[bytes, int]:
        length = self._rng.choice(LENGTHS) if self._rng.random() < 0.7 else self._rng.getrandbits(64)
        return frame(self._rng.choice((BINARY, TEXT, CONT, PING)), self._some(300), length=length), 1

    def _out_of_order(self) -> tuple[bytes, int]:
        """A fragment of nothing, or a message that begins in another."""
        if self._rng.random() < 0.5:
            return self._frame(CONT, self._some(40), fin=self._rng.random() < 0.5), 1
        return self._frame(BINARY, self._payload(), fin=False) + self._frame(BINARY, self._payload()), 2

    def _burst(self) -> tuple[bytes, int]:
        """Frames that no application sees, from few to far too many."""
        count = 5000 if self._rng.random() < 0.02 else self._rng.choice((3, 10, 30, 60, 100, 300))
        what = self._rng.randrange(4)
        if what == 0:
            return self._frame(BINARY, fin=False) + frame(CONT, fin=False) * (count - 1), count
        if what == 1:
            return frame(PING, self._some(125)) * count, count
        if what == 2:
            return frame(PONG) * count, count
        return frame(BINARY) * count, count

    def _text(self) -> tuple[bytes, int]:
        return self._frame(TEXT, self._rng.choice((b"text", b"\xc3\x28", b"\xed\xa0\x80", self._some(80)))), 1

    def _rubbish(self) -> tuple[bytes, int]:
        return self._rng.randbytes(self._rng.randint(1, 400)), 1
