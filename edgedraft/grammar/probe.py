"""Generates texts by a grammar over single bytes, to find out whether they can run into a dead end.

A compiler accepts grammars that some of their own texts cannot leave: llguidance lets a property that `properties` and
`patternProperties` both name begin twice, and then nothing can follow but white space.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from llguidance import LLMatcher

_WHITE_SPACE = frozenset(b" \t\r\n")
_CLOSERS = b'"}]0123456789'
_RANDOM_WALKS = 4
_SHORTEST_BYTES = 1024  # of the walk that tries to end
_OTHER_BYTES = 192

DEAD_END = "a text that follows it can come to a point where nothing can follow"

Chooser = Callable[[list[int]], int]


def find_dead_end(matcher: LLMatcher) -> str:
    """Returns what is wrong with a matcher over bytes at the beginning of its text, empty for nothing.

    Walks that end soon, that prefer white space, and random ones, the same each time. Takes some 10 ms.
    """
    choosers: list[tuple[Chooser, int]] = [(_shortest, _SHORTEST_BYTES), (_white_space_first, _OTHER_BYTES)]
    choosers += [(random.Random(seed).choice, _OTHER_BYTES) for seed in range(_RANDOM_WALKS)]
    for choose, length in choosers:
        if fault := _walk(matcher.deep_copy(), choose, length):
            return fault
    return ""


def _walk(matcher: LLMatcher, choose: Chooser, length: int) -> str:
    for _ in range(length):
        if matcher.is_stopped():
            break
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error():
            break
        if not mask:
            return DEAD_END
        if mask >> 256 and choose is _shortest:
            return ""  # the text may end here
        allowed = [byte for byte in range(256) if mask >> byte & 1]
        if not allowed:
            return ""
        if not matcher.consume_token(choose(allowed)):
            break
    return DEAD_END if matcher.is_error() else ""


def _shortest(allowed: list[int]) -> int:
    for byte in _CLOSERS:
        if byte in allowed:
            return byte
    return next((byte for byte in allowed if byte not in _WHITE_SPACE), allowed[0])


def _white_space_first(allowed: list[int]) -> int:
    return next((byte for byte in allowed if byte in _WHITE_SPACE), _shortest(allowed))
