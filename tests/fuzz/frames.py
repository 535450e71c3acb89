"""Frames as an attacker makes them: valid ones of every way, then bytes and fields changed, spliced, cut, or at random.

All from one seed. A way is one direction of one hop, with the decoder that stands at its end.
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

WAYS: dict[str, FrameDecoder[Any]] = {
    "agent to gateway": wire.decode_from_agent,
    "gateway to agent": wire.decode_to_agent,
    "gateway to verifier": wire.decode_to_verifier,
    "verifier to gateway": wire.decode_from_verifier,
    "replica to host": decode_to_host,
    "replica to requester": decode_to_requester,
}
LONGEST = 4096  # bytes of a frame that is made here
LIES = (b"\xdd\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdf\0\0\1\0", b"\x91" * 5)  # of lengths and depths
EDGES = (
    *(0, 1, -1, 63, 64, 65, 127, 128, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1),
    *(-(2**63), 0.0, -0.0, 1e308, float("inf"), float("nan"), None, True, "", "x" * 300, "\ud7ff\0\x1b[2J", b""),
    *(b"\xff" * 70, [], [0] * 70, [[]], [-1], {}, {"a": {}}, {1: 1}),
)


def tokens(dice: Random, vocab: int, most: int = 12, least: int = 0) -> list[int]:
    return [dice.randrange(vocab) for _ in range(dice.randint(least, most))]


def hello(dice: Random, vocab: int) -> Hello:
    return Hello(wire.PROTOCOL, "fuzz", "", "none", dice.randint(0, 8))


def opened(dice: Random, vocab: int) -> Open:
    sampling = Sampling(
        temperature=dice.choice((0.0, 0.7, 100.0)),
        top_k=dice.choice((0, 1, 50, 2**40)),
        seed=dice.getrandbits(63),
        logit_bias={dice.randrange(vocab): 5.0} if dice.random() < 0.2 else {},
    )
    return Open(
        session=dice.randint(1, 40),
        prompt=tokens(dice, vocab, 24),
        sampling=sampling,
        max_tokens=dice.choice((1, 8, 40, 2**40)),
        committed=tokens(dice, vocab, 3),
        window=dice.randint(0, wire.MAX_WINDOW),
        epoch=dice.choice((0, 0, 3, 2**52)),
        eos=(dice.randrange(vocab),),
        agent=dice.choice(("", "ab12")),
        salt=dice.choice(("", "t")),
        logprobs=dice.choice((-1, -1, 2)),
        prediction=tokens(dice, vocab, 10),
    )


def draft(dice: Random, vocab: int) -> Draft:
    first = dice.choice((1, 1, 2, dice.randint(1, 200)))
    drafted = tokens(dice, vocab, 10, 1)
    parents = [dice.randint(max(0, first - 3), first + i - 1) if first + i > 1 else 0 for i in range(len(drafted))]
    at = dice.choice((0, 0, 1, dice.randint(0, 50)))
    epoch = dice.choice((1, 1, 1, 2, dice.randint(0, 5)))
    return Draft(dice.randint(1, 40), epoch, at, first, drafted, parents, dice.randbytes(len(drafted)))


def commit(dice: Random, vocab: int) -> Commit:
    said = tokens(dice, vocab, 5)
    logprobs = [TokenLogprobs(-1.0, [1, 2], [-1.0, -2.0]) for _ in said] if dice.random() < 0.3 else []
    nodes, depth = dice.randint(0, 64), dice.randint(0, 64)
    finish = dice.choice((None, None, None, "stop", "length"))
    at = dice.choice((0, 0, dice.randint(0, 20)))
    window = dice.randint(0, wire.MAX_WINDOW)
    return Commit(
        dice.randint(1, 40), at, said, window, nodes, depth, depth, 0.01, finish, 3, dice.random() < 0.2, logprobs
    )


def close(dice: Random, vocab: int) -> Close:
    return Close(dice.randint(1, 40), dice.choice(("", "overloaded", "refused", "failed")), "because", 1.5)


def card(dice: Random, vocab: int) -> ModelCard:
    return ModelCard("m", "f" * 64, vocab, 2048, (0, 2), b"\x78\x9c", "{{ messages }}")


MAKERS: dict[str, Sequence[Make]] = {
    "agent to gateway": (hello, draft, draft, draft),
    "gateway to agent": (
        lambda dice, vocab: AgentWelcome(wire.PROTOCOL, "agent-1", "m", vocab, 8),
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
        lambda dice, vocab: AgentChanged(dice.randint(1, 40), dice.choice(("", "ab12"))),
        close,
    ),
    "verifier to gateway": (
        lambda dice, vocab: VerifierWelcome(wire.PROTOCOL, card(dice, vocab), 64),
        commit,
        commit,
        lambda dice, vocab: Queued(dice.randint(1, 40), dice.randint(0, 9)),
        close,
    ),
    "replica to host": (
        lambda dice, vocab: RequestSlot(
            dice.randint(1, 40), "default", dice.choice(("default", "ann")), "f" * 64, vocab
        ),
        opened,
        commit,
        close,
    ),
    "replica to requester": (
        lambda dice, vocab: SlotGranted(dice.randint(1, 40), "ab12", 2),
        lambda dice, vocab: SlotQueued(dice.randint(1, 40)),
        draft,
        lambda dice, vocab: SlotUsage(dice.randint(1, 40), 0.5, 3),
        close,
    ),
}


class Frames:
    """An endless supply for one way."""

    def __init__(self, way: str, dice: Random, vocab: int = 1000, kept: int = 1500) -> None:
        self._dice = dice
        self._makers = MAKERS[way]
        self._vocab = vocab
        self._valid = [self.valid() for _ in range(kept)]

    def valid(self) -> bytes:
        """A frame that the decoder takes."""
        dice = self._dice
        return wire.encode_frame(
            [dice.choice(self._makers)(dice, self._vocab) for _ in range(dice.choice((1, 1, 1, 2, 4)))]
        )

    def next(self) -> bytes:
        """One in twenty is valid, one in ten random; of the others a third has fields replaced, the rest bytes."""
        dice = self._dice
        kind = dice.random()
        if kind < 0.05:
            return dice.choice(self._valid)
        if kind < 0.15:
            return dice.randbytes(dice.choice((0, 1, 2, 5, 20, 100, 400)))
        if kind < 0.43:
            return self._fields_replaced()
        return self._bytes_changed()

    def _fields_replaced(self) -> bytes:
        dice = self._dice
        document: Any = msgspec.msgpack.decode(dice.choice(self._valid))
        for _ in range(dice.choice((1, 1, 2, 3))):
            place: Any = dice.choice(document)
            while True:
                at = dice.randrange(len(place)) if isinstance(place, list) else dice.choice(list(place))
                if isinstance(place[at], list | dict) and place[at] and dice.random() < 0.5:
                    place = place[at]
                    continue
                break
            place[at] = deepcopy(dice.choice(EDGES))
            document = [part for part in document if isinstance(part, list) and part] or [[0]]
        if dice.random() < 0.1:
            document = document * dice.randint(2, 300)
        return msgspec.msgpack.encode(document)

    def _bytes_changed(self) -> bytes:
        dice = self._dice
        frame = bytearray(dice.choice(self._valid))
        for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
            at = dice.randrange(len(frame) + 1)
            how = dice.randrange(6)
            if how == 0 and at < len(frame):
                frame[at] = dice.getrandbits(8)
            elif how == 1 and at < len(frame):
                frame[at] ^= 1 << dice.randrange(8)
            elif how == 2:
                frame[at:at] = dice.randbytes(dice.choice((1, 1, 2, 9)))
            elif how == 3:
                del frame[at : at + dice.choice((1, 1, 2, 9))]
            elif how == 4:
                other = dice.choice(self._valid)
                frame[at:] = other[dice.randrange(len(other)) :]
            else:
                frame[at : at + 5] = dice.choice(LIES)
        return bytes(frame[:LONGEST])
