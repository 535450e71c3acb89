"""The KV cache: blocks of BLOCK tokens, who holds them, and which can be found again by the text that they hold.

A sequence holds blocks for its tokens. What it publishes, full blocks of final text, other sequences of the same salt
can adopt instead of computing it again: a block is named by a hash over its tokens and all before them. A published
block that nobody holds stays until its room is needed, least recently used first, tails before their heads.

This file decides nothing about sessions and knows no model; what a slot holds is written by paged.py's attention.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch

BLOCK = 16  # tokens in a block


class OutOfBlocks(Exception):
    """The KV cache has no free block left for this."""


class PagedKV:
    """Keys and values of every layer for `tokens` tokens, and the books of the blocks."""

    def __init__(self, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.blocks = -(-tokens // BLOCK)
        self.dtype, self.device = dtype, device
        self._free = list(range(self.blocks - 1, -1, -1))
        self._holders = [0] * self.blocks
        self._digests: dict[int, bytes] = {}  # published block -> its name
        self._published: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # published blocks that nobody holds, the next to go first
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def tokens(self) -> int:
        """How many tokens it holds in all."""
        return self.blocks * BLOCK

    @property
    def free_tokens(self) -> int:
        """Room, counting blocks that are only kept to be found again."""
        return (len(self._free) + len(self._idle)) * BLOCK

    @property
    def layers(self) -> int:
        """How many layers have brought keys so far."""
        return len(self._layers)

    def take(self, count: int) -> list[int]:
        """`count` blocks to write into. Raises OutOfBlocks, taking none."""
        if count > len(self._free) + len(self._idle):
            raise OutOfBlocks(f"{count} blocks wanted, {len(self._free) + len(self._idle)} free")
        while len(self._free) < count:
            block, _ = self._idle.popitem(last=False)
            del self._published[self._digests.pop(block)]
            self._free.append(block)
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """One holder fewer of each, given in the order of the text."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._digests:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def publish(self, block: int, digest: bytes) -> None:
        """Name a full block; of two with the same content the first keeps the name."""
        if digest not in self._published:
            self._published[digest] = block
            self._digests[block] = digest

    def find(self, digest: bytes) -> int | None:
        """The block of that name, held once more by the caller."""
        block = self._published.get(digest)
        if block is not None:
            self._idle.pop(block, None)
            self._holders[block] += 1
        return block

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """This layer's stores, [blocks, BLOCK, heads, dim] each; made at first sight of its [rows, heads, dim]."""
        if index not in self._layers:
            self._layers[index] = (
                torch.zeros((self.blocks, BLOCK, *key.shape[1:]), dtype=self.dtype, device=self.device),
                torch.zeros((self.blocks, BLOCK, *value.shape[1:]), dtype=self.dtype, device=self.device),
            )
        return self._layers[index]

    @torch.inference_mode()
    def move(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy slots within every layer; the two may overlap."""
        sources = torch.tensor(source, device=self.device)
        destinations = torch.tensor(destination, device=self.device)
        for stores in self._layers.values():
            for store in stores:
                slots = store.flatten(0, 1)
                slots.index_copy_(0, destinations, slots.index_select(0, sources))


class KVSequence:
    """One sequence's place in the cache: `length` tokens are in it for good, rows of a forward lie beyond."""

    def __init__(self, kv: PagedKV, salt: str = "") -> None:
        """Only sequences of one `salt` find each other's text."""
        self._kv = kv
        self._salt = hashlib.sha256(salt.encode()).digest()
        self._blocks: list[int] = []
        self._names: list[bytes] = []  # of the leading blocks that are published or adopted
        self.length = 0

    @property
    def holds_blocks(self) -> bool:
        return bool(self._blocks)

    def adopt(self, text: Sequence[int]) -> None:
        """An empty sequence takes over what is known of `text` already, short of its last token."""
        for start in range(0, len(text) - BLOCK, BLOCK):
            name = self._name(text[start : start + BLOCK])
            block = self._kv.find(name)
            if block is None:
                break
            self._blocks.append(block)
            self._names.append(name)
            self.length += BLOCK

    def publish(self, text: Sequence[int]) -> None:
        """Let others find the full blocks of this sequence, which holds `text` as far as its length."""
        for start in range(len(self._names) * BLOCK, self.length - BLOCK + 1, BLOCK):
            name = self._name(text[start : start + BLOCK])
            self._kv.publish(self._blocks[start // BLOCK], name)
            self._names.append(name)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` beyond the length. Raises OutOfBlocks, changing nothing."""
        missing = -(-(self.length + rows) // BLOCK) - len(self._blocks)
        if missing > 0:
            self._blocks.extend(self._kv.take(missing))

    def blocks(self, rows: int) -> list[int]:
        """The blocks that hold the sequence and `rows` reserved rows behind it, in order."""
        return self._blocks[: -(-(self.length + rows) // BLOCK)]

    def slots(self, start: int, stop: int) -> list[int]:
        """Slots of positions start to stop: block * BLOCK + place in the block."""
        return [self._blocks[at // BLOCK] * BLOCK + at % BLOCK for at in range(start, stop)]

    def keep(self, rows: Sequence[int]) -> None:
        """Make `rows` of the last forward (ascending, each the next one's parent) part of the sequence."""
        if list(rows) != list(range(len(rows))):
            slots = self.slots(self.length, self.length + rows[-1] + 1)
            self._kv.move([slots[row] for row in rows], slots[: len(rows)])
        self.truncate(self.length + len(rows))

    def truncate(self, length: int) -> None:
        """Forget what lies beyond `length` tokens and free its blocks.

        Raises ValueError for a length inside what was published, unless it is 0: others may be reading it.
        """
        if length == 0:
            self._names.clear()
        elif length < len(self._names) * BLOCK:
            raise ValueError("published text is final")
        self.length = length
        needed = -(-length // BLOCK)
        self._kv.release(self._blocks[needed:])
        del self._blocks[needed:]

    def _name(self, tokens: Sequence[int]) -> bytes:
        before = self._names[-1] if self._names else self._salt
        return hashlib.sha256(before + array("q", tokens).tobytes()).digest()
