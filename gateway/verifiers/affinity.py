"""Prefix affinity: which verifier has computed the beginning of a prompt before, so that a chat returns to it.

Prefixes are recorded as one hash per block, each over all blocks up to it, in LRU order. Tenants share none, as
verifiers do not share their prefix caches between tenants. A wrong entry costs time and nothing else.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence

BLOCK_SIZE = 64  # tokens
MAX_BLOCKS = 256  # of one prompt that are looked at
CAPACITY = 1 << 16  # blocks


class PrefixAffinity:
    """An LRU map from prompt prefixes to the URLs of verifiers."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """`capacity` is in blocks."""
        self._capacity = capacity
        self._urls: OrderedDict[int, str] = OrderedDict()

    def hash_blocks(self, salt: str, prompt: Sequence[int]) -> list[int]:
        """Hashes of the prompt's complete blocks; tenants differ in `salt`.

        The last token is left out, as a prefix cache never holds it: its logits are needed.
        """
        hashes: list[int] = []
        prefix = zlib.crc32(salt.encode())  # the same in every process, as the hash of integers is
        for start in range(0, min(len(prompt) - 1, BLOCK_SIZE * MAX_BLOCKS) - BLOCK_SIZE + 1, BLOCK_SIZE):
            prefix = hash((prefix, *prompt[start : start + BLOCK_SIZE]))
            hashes.append(prefix)
        return hashes

    def longest_match(self, blocks: Sequence[int]) -> tuple[str, int]:
        """The URL recorded for the longest prefix of these blocks, and its number of blocks; "" and 0 for none."""
        for count in range(len(blocks), 0, -1):
            if url := self._urls.get(blocks[count - 1]):
                return url, count
        return "", 0

    def record(self, blocks: Sequence[int], url: str) -> None:
        """The verifier at `url` has computed these blocks, or is about to."""
        for block in reversed(blocks):  # so that the end of a prefix is evicted before its start
            self._urls[block] = url
            self._urls.move_to_end(block)
        while len(self._urls) > self._capacity:
            self._urls.popitem(last=False)
