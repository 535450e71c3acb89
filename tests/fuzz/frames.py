"""Adversarial frames: valid ones of every direction, with bytes and fields changed, spliced or cut, and random bytes.

All from one seed. A direction is one direction of one link, with the decoder of its receiving end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any

import msgspec
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
    TokenLogprobs,
    VerifierWelcome,
)
from gateway.replicas.messages import (
    RequestSlot,
    SlotGranted,
    SlotQueued,
    SlotUsage,
    decode_to_host,
    decode_to_requester,
)

Make = Callable[[Random, int], Struct]

DECODERS: dict[str, FrameDecoder[Any]] = {
    "agent to gateway": wire.decode_from_agent,
    "gateway to agent": wire.decode_to_agent,
    "gateway to verifier": wire.decode_to_verifier,
    "verifier to gateway": wire.decode_from_verifier,
    "replica to host": decode_to_host,
    "replica to requester": decode_to_requester,
}
LONGEST_FRAME = 4096  # bytes
FALSE_LENGTHS = (
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xdf\0\0\1\0",
    b"\x91" * 5,
)  # headers that claim large lengths or depths
EDGE_VALUES = (
    *(0, 1, -1, 63, 64, 65, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1),
    *(-(2**63), 0.0, -0.0, 1e308, float("inf"), float("nan"), None, True, "", "x" * 300, "\ud7ff\0\x1b[2J", b""),
    *(b"\xff" * 70, [], [0] * 70, [[]], [-1], {}, {"a": {}}, {1: 1}),
)


def tokens(rng: Random, vocab: int, most: int = 12, least: int = 0) -> list[int]:
    return [rng.randrange(vocab) for _ in range(rng.randint(least, most))]


def hello(rng: Random, vocab: int) -> Hello:
    return Hello(wire.PROTOCOL, "fuzz", "", "none", rng.randint(0, 8))


def opened(rng: Random, vocab: int) -> Open:
    sampling = Sampling(
        temperature=rng.choice((0.0, 0.7, 100.0)),
        top_k=rng.choice((0, 1, 50, 2**40)),
        seed=rng.getrandbits(63),
        logit_bias={rng.randrange(vocab): 5.0} if rng.random() < 0.2 else {},
    )
    return Open(
        session=rng.randint(1, 40),
        prompt=tokens(rng, vocab, 24),
        sampling=sampling,
        max_tokens=rng.choice((1, 8, 40, 2**40)),
        committed=tokens(rng, vocab, 3),
        window=rng.randint(0, wire.MAX_WINDOW),
        epoch=rng.choice((0, 0, 3, 2**52)),
        eos=(rng.randrange(vocab),),
        agent=rng.choice(("", "ab12")),
        salt=rng.choice(("", "t")),
        logprobs=rng.choice((-1, -1, 2)),
        prediction=tokens(rng, vocab, 10),
    )


def draft(rng: Random, vocab: int) -> Draft:
    first = rng.choice((1, 1, 2, rng.randint(1, 200)))
    drafted = tokens(rng, vocab, 10, 1)
    parents = [rng.randint(max(0, first - 3), first + i - 1) if first + i > 1 else 0 for i in range(len(drafted))]
    at = rng.choice((0, 0, 1, rng.randint(0, 50)))
    epoch = rng.choice((1, 1, 1, 2, rng.randint(0, 5)))
    return Draft(rng.randint(1, 40), epoch, at, first, drafted, parents, rng.randbytes(len(drafted)))


def commit(rng: Random, vocab: int) -> Commit:
    committed = tokens(rng, vocab, 5)
    logprobs = [TokenLogprobs(-1.0, [1, 2], [-1.0, -2.0]) for _ in committed] if rng.random() < 0.3 else []
    nodes, depth = rng.randint(0, 64), rng.randint(0, 64)
    finish = rng.choice((None, None, None, "stop", "length"))
    at = rng.choice((0, 0, rng.randint(0, 20)))
    window = rng.randint(0, wire.MAX_WINDOW)
    return Commit(
        rng.randint(1, 40), at, committed, window, nodes, depth, depth, 0.01, finish, 3, rng.random() < 0.2, logprobs
    )


def close(rng: Random, vocab: int) -> Close:
    return Close(rng.randint(1, 40), rng.choice(("", "overloaded", "refused", "failed")), "because", 1.5)


def card(rng: Random, vocab: int) -> ModelCard:
    return ModelCard("m", "f" * 64, vocab, 2048, (0, 2), b"\x78\x9c", "{{ messages }}")


MAKERS: dict[str, Sequence[Make]] = {
    "agent to gateway": (hello, draft, draft, draft),
    "gateway to agent": (
        lambda rng, vocab: AgentWelcome(wire.PROTOCOL, "agent-1", "m", vocab, 8),
        opened,
        commit,
        close,
    ),
    "gateway to verifier": (
        hello,
        opened,
        opened,
        draft,
        draft,
        lambda rng, vocab: AgentChanged(rng.randint(1, 40), rng.choice(("", "ab12"))),
        close,
    ),
    "verifier to gateway": (
        lambda rng, vocab: VerifierWelcome(wire.PROTOCOL, card(rng, vocab), 64),
        commit,
        commit,
        lambda rng, vocab: Queued(rng.randint(1, 40), rng.randint(0, 9)),
        close,
    ),
    "replica to host": (
        lambda rng, vocab: RequestSlot(rng.randint(1, 40), "default", rng.choice(("default", "ann")), "f" * 64, vocab),
        opened,
        commit,
        close,
    ),
    "replica to requester": (
        lambda rng, vocab: SlotGranted(rng.randint(1, 40), "ab12", 2),
        lambda rng, vocab: SlotQueued(rng.randint(1, 40)),
        draft,
        lambda rng, vocab: SlotUsage(rng.randint(1, 40), 0.5, 3),
        close,
    ),
}


class Frames:
    """An endless supply of frames for one direction."""

    def __init__(self, direction: str, rng: Random, vocab: int = 1000, kept: int = 1500) -> None:
        self._rng = rng
        self._makers = MAKERS[direction]
        self._vocab = vocab
        self._valid = [self.valid() for _ in range(kept)]

    def valid(self) -> bytes:
        """A frame that the decoder accepts."""
        rng = self._rng
        return wire.encode_frame(
            [rng.choice(self._makers)(rng, self._vocab) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
        )

    def next(self) -> bytes:
        """5 % are valid, 10 % random bytes, 28 % have fields replaced, the rest bytes changed."""
        rng = self._rng
        kind = rng.random()
        if kind < 0.05:
            return rng.choice(self._valid)
        if kind < 0.15:
            return rng.randbytes(rng.choice((0, 1, 2, 5, 20, 100, 400)))
        if kind < 0.43:
            return self._fields_replaced()
        return self._bytes_changed()

    def _fields_replaced(self) -> bytes:
        rng = self._rng
        document: Any = msgspec.msgpack.decode(rng.choice(self._valid))
        for _ in range(rng.choice((1, 1, 2, 3))):
            container: Any = rng.choice(document)
            while True:
                at = rng.randrange(len(container)) if isinstance(container, list) else rng.choice(list(container))
                if isinstance(container[at], list | dict) and container[at] and rng.random() < 0.5:
                    container = container[at]
                    continue
                break
            container[at] = deepcopy(rng.choice(EDGE_VALUES))
            document = [part for part in document if isinstance(part, list) and part] or [[0]]
        if rng.random() < 0.1:
            document = document * rng.randint(2, 300)
        return msgspec.msgpack.encode(document)

    def _bytes_changed(self) -> bytes:
        rng = self._rng
        frame = bytearray(rng.choice(self._valid))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            at = rng.randrange(len(frame) + 1)
            how = rng.randrange(6)
            if how == 0 and at < len(frame):
                frame[at] = rng.getrandbits(8)
            elif how == 1 and at < len(frame):
                frame[at] ^= 1 << rng.randrange(8)
            elif how == 2:
                frame[at:at] = rng.randbytes(rng.choice((1, 1, 2, 9)))
            elif how == 3:
                del frame[at : at + rng.choice((1, 1, 2, 9))]
            elif how == 4:
                other = rng.choice(self._valid)
                frame[at:] = other[rng.randrange(len(other)) :]
            else:
                frame[at : at + 5] = rng.choice(FALSE_LENGTHS)
        return bytes(frame[:LONGEST_FRAME])
