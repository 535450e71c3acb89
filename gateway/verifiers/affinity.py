"""Which verifier has computed the beginning of a prompt before: what sends a chat's next turn where its last one was.

Beginnings are remembered by a hash a block, each over all the blocks before it, in order of last use. Tenants do not
share them, as verifiers do not share their caches between tenants. A wrong guess costs time and nothing else.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence

BLOCK_SIZE = 64  # tokens
MAX_BLOCKS = 256  # blocks of one prompt that are looked at
CAPACITY = 1 << 16  # blocks


class PrefixAffinity:
    """`place` is a verifier, by its address."""

    def __init__(self, remembered: int = CAPACITY) -> None:
        self._remembered = remembered
        self._places: OrderedDict[int, str] = OrderedDict()

    def hash_blocks(self, salt: str, prompt: Sequence[int]) -> list[int]:
        """The prompt's whole blocks as they are remembered. The last token is never found computed: it is not asked."""
        hashes: list[int] = []
        before = zlib.crc32(salt.encode())  # the same in every process, as the hash of integers is
        for start in range(0, min(len(prompt) - 1, BLOCK_SIZE * MAX_BLOCKS) - BLOCK_SIZE + 1, BLOCK_SIZE):
            before = hash((before, *prompt[start : start + BLOCK_SIZE]))
            hashes.append(before)
        return hashes

    def longest_match(self, blocks: Sequence[int]) -> tuple[str, int]:
        """The place that had the longest beginning of these, and how many blocks that is; "" and 0 for none."""
        for count in range(len(blocks), 0, -1):
            if place := self._places.get(blocks[count - 1]):
                return place, count
        return "", 0

    def record(self, blocks: Sequence[int], place: str) -> None:
        """It has these now, or will have them soon."""
        for block in reversed(blocks):  # so that the end of a beginning is forgotten before its start
            self._places[block] = place
            self._places.move_to_end(block)
        while len(self._places) > self._remembered:
            self._places.popitem(last=False)
