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

BLOCK_SIZE = 16  # tokens in a block


class OutOfBlocks(Exception):
    """The KV cache has no free block left for this."""


class BlockManager:
    """Keys and values of every layer for `tokens` tokens, and the books of the blocks."""

    def __init__(self, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_blocks = -(-tokens // BLOCK_SIZE)
        self.dtype, self.device = dtype, device
        self._free = list(range(self.num_blocks - 1, -1, -1))
        self._ref_counts = [0] * self.num_blocks
        self._block_hashes: dict[int, bytes] = {}  # published block -> its name
        self._cached_blocks: dict[bytes, int] = {}
        self._evictable: OrderedDict[int, None] = (
            OrderedDict()
        )  # published blocks that nobody holds, the next to go first
        self._kv_by_layer: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def num_tokens(self) -> int:
        """How many tokens it holds in all."""
        return self.num_blocks * BLOCK_SIZE

    @property
    def num_free_tokens(self) -> int:
        """Room, counting blocks that are only kept to be found again."""
        return (len(self._free) + len(self._evictable)) * BLOCK_SIZE

    @property
    def num_layers(self) -> int:
        """How many layers have brought keys so far."""
        return len(self._kv_by_layer)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks to write into. Raises OutOfBlocks, taking none."""
        if count > len(self._free) + len(self._evictable):
            raise OutOfBlocks(f"{count} blocks wanted, {len(self._free) + len(self._evictable)} free")
        while len(self._free) < count:
            block, _ = self._evictable.popitem(last=False)
            del self._cached_blocks[self._block_hashes.pop(block)]
            self._free.append(block)
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._ref_counts[block] = 1
        return taken

    def free(self, blocks: Sequence[int]) -> None:
        """One holder fewer of each, given in the order of the text."""
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._block_hashes:
                    self._evictable[block] = None
                else:
                    self._free.append(block)

    def cache_block(self, block: int, digest: bytes) -> None:
        """Name a full block; of two with the same content the first keeps the name."""
        if digest not in self._cached_blocks:
            self._cached_blocks[digest] = block
            self._block_hashes[block] = digest

    def get_cached_block(self, digest: bytes) -> int | None:
        """The block of that name, held once more by the caller."""
        block = self._cached_blocks.get(digest)
        if block is not None:
            self._evictable.pop(block, None)
            self._ref_counts[block] += 1
        return block

    def layer_kv(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """This layer's stores, [blocks, BLOCK, heads, dim] each; made at first sight of its [rows, heads, dim]."""
        if index not in self._kv_by_layer:
            self._kv_by_layer[index] = (
                torch.zeros((self.num_blocks, BLOCK_SIZE, *key.shape[1:]), dtype=self.dtype, device=self.device),
                torch.zeros((self.num_blocks, BLOCK_SIZE, *value.shape[1:]), dtype=self.dtype, device=self.device),
            )
        return self._kv_by_layer[index]

    @torch.inference_mode()
    def copy_slots(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy slots within every layer; the two may overlap."""
        sources = torch.tensor(source, device=self.device)
        destinations = torch.tensor(destination, device=self.device)
        for stores in self._kv_by_layer.values():
            for store in stores:
                slots = store.flatten(0, 1)
                slots.index_copy_(0, destinations, slots.index_select(0, sources))


class BlockTable:
    """One sequence's place in the cache: `length` tokens are in it for good, rows of a forward lie beyond."""

    def __init__(self, kv: BlockManager, salt: str = "") -> None:
        """Only sequences of one `salt` find each other's text."""
        self._manager = kv
        self._salt = hashlib.sha256(salt.encode()).digest()
        self._blocks: list[int] = []
        self._block_hashes: list[bytes] = []  # of the leading blocks that are published or adopted
        self.length = 0

    @property
    def holds_blocks(self) -> bool:
        return bool(self._blocks)

    def match_prefix(self, text: Sequence[int]) -> None:
        """An empty sequence takes over what is known of `text` already, short of its last token."""
        for start in range(0, len(text) - BLOCK_SIZE, BLOCK_SIZE):
            name = self._hash_block(text[start : start + BLOCK_SIZE])
            block = self._manager.get_cached_block(name)
            if block is None:
                break
            self._blocks.append(block)
            self._block_hashes.append(name)
            self.length += BLOCK_SIZE

    def cache_blocks(self, text: Sequence[int]) -> None:
        """Let others find the full blocks of this sequence, which holds `text` as far as its length."""
        for start in range(len(self._block_hashes) * BLOCK_SIZE, self.length - BLOCK_SIZE + 1, BLOCK_SIZE):
            name = self._hash_block(text[start : start + BLOCK_SIZE])
            self._manager.cache_block(self._blocks[start // BLOCK_SIZE], name)
            self._block_hashes.append(name)

    def reserve_slots(self, rows: int) -> None:
        """Make room for `rows` beyond the length. Raises OutOfBlocks, changing nothing."""
        missing = -(-(self.length + rows) // BLOCK_SIZE) - len(self._blocks)
        if missing > 0:
            self._blocks.extend(self._manager.allocate(missing))

    def blocks(self, rows: int) -> list[int]:
        """The blocks that hold the sequence and `rows` reserved rows behind it, in order."""
        return self._blocks[: -(-(self.length + rows) // BLOCK_SIZE)]

    def slots(self, start: int, stop: int) -> list[int]:
        """Slots of positions start to stop: block * BLOCK + place in the block."""
        return [self._blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for at in range(start, stop)]

    def keep_accepted(self, rows: Sequence[int]) -> None:
        """Make `rows` of the last forward (ascending, each the next one's parent) part of the sequence."""
        if list(rows) != list(range(len(rows))):
            slots = self.slots(self.length, self.length + rows[-1] + 1)
            self._manager.copy_slots([slots[row] for row in rows], slots[: len(rows)])
        self.truncate(self.length + len(rows))

    def truncate(self, length: int) -> None:
        """Forget what lies beyond `length` tokens and free its blocks.

        Raises ValueError for a length inside what was published, unless it is 0: others may be reading it.
        """
        if length == 0:
            self._block_hashes.clear()
        elif length < len(self._block_hashes) * BLOCK_SIZE:
            raise ValueError("published text is final")
        self.length = length
        needed = -(-length // BLOCK_SIZE)
        self._manager.free(self._blocks[needed:])
        del self._blocks[needed:]

    def _hash_block(self, tokens: Sequence[int]) -> bytes:
        before = self._block_hashes[-1] if self._block_hashes else self._salt
        return hashlib.sha256(before + array("q", tokens).tobytes()).digest()
