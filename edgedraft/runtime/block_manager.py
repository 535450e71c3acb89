"""The paged KV cache: a pool of blocks with reference counts and a prefix cache, and each sequence's block table.

A block holds the keys and values of BLOCK_SIZE tokens in every layer. Full blocks of final text are registered in the
prefix cache under a block hash (of the block's tokens and of the hash before it, starting from the sequence's salt), so
that sequences of the same salt share them instead of computing them again. A registered block whose reference count
drops to 0 stays in the prefix cache until its space is needed. Eviction is LRU, a text's last block first.

This module decides nothing about sessions and knows no model. Keys and values are written in attention.py.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch

from edgedraft.runtime.blocks import BLOCK_SIZE, OutOfBlocks, num_blocks


class BlockManager:
    """The pool of blocks: reference counts, prefix cache and the tensors of every layer.

    A slot is one token's place in the pool: block * BLOCK_SIZE + offset in the block.
    """

    def __init__(self, num_tokens: int, dtype: torch.dtype, device: torch.device, padding: bool = False) -> None:
        """`num_tokens` is the capacity, rounded up to full blocks. `padding` adds a block that no sequence gets."""
        self.num_blocks = num_blocks(num_tokens)
        self._num_padding_blocks = int(padding)
        self.dtype, self.device = dtype, device
        self._free = list(range(self.num_blocks - 1, -1, -1))
        self._ref_counts = [0] * self.num_blocks
        self._block_hashes: dict[int, bytes] = {}  # of the blocks in the prefix cache
        self._cached_blocks: dict[bytes, int] = {}  # the prefix cache
        self._evictable: OrderedDict[int, None] = OrderedDict()  # cached blocks with reference count 0, LRU first
        self._kv_by_layer: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def num_tokens(self) -> int:
        """The capacity in tokens."""
        return self.num_blocks * BLOCK_SIZE

    @property
    def num_free_tokens(self) -> int:
        """How many tokens can be allocated, evictable blocks included."""
        return (len(self._free) + len(self._evictable)) * BLOCK_SIZE

    @property
    def padding_slot(self) -> int:
        """Where rows are written that belong to no sequence, with `padding`."""
        return self.num_blocks * BLOCK_SIZE

    @property
    def num_layers(self) -> int:
        """How many layers have allocated their tensors so far."""
        return len(self._kv_by_layer)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take `num_blocks` blocks, each with reference count 1, evicting cached blocks where needed.

        Raises OutOfBlocks and then takes none.
        """
        if num_blocks > len(self._free) + len(self._evictable):
            raise OutOfBlocks(f"{num_blocks} blocks wanted, {len(self._free) + len(self._evictable)} free")
        while len(self._free) < num_blocks:
            block, _ = self._evictable.popitem(last=False)
            del self._cached_blocks[self._block_hashes.pop(block)]
            self._free.append(block)
        allocated = [self._free.pop() for _ in range(num_blocks)]
        for block in allocated:
            self._ref_counts[block] = 1
        return allocated

    def free(self, blocks: Sequence[int]) -> None:
        """Decrement the reference counts of `blocks`, given in the order of the text."""
        for block in reversed(blocks):
            self._ref_counts[block] -= 1
            if self._ref_counts[block] == 0:
                if block in self._block_hashes:
                    self._evictable[block] = None
                else:
                    self._free.append(block)

    def cache_block(self, block: int, block_hash: bytes) -> None:
        """Register a full block in the prefix cache. Of two blocks with one hash the first stays registered."""
        if block_hash not in self._cached_blocks:
            self._cached_blocks[block_hash] = block
            self._block_hashes[block] = block_hash

    def get_cached_block(self, block_hash: bytes) -> int | None:
        """The block of that hash with its reference count incremented, or None."""
        block = self._cached_blocks.get(block_hash)
        if block is not None:
            self._evictable.pop(block, None)
            self._ref_counts[block] += 1
        return block

    def layer_kv(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of layer `index`, each [num_blocks, BLOCK_SIZE, kv_heads, dim].

        `key` and `value` [rows, kv_heads, dim] give the shapes when the layer is first seen.
        """
        if index not in self._kv_by_layer:
            count = self.num_blocks + self._num_padding_blocks
            self._kv_by_layer[index] = (
                torch.zeros((count, BLOCK_SIZE, *key.shape[1:]), dtype=self.dtype, device=self.device),
                torch.zeros((count, BLOCK_SIZE, *value.shape[1:]), dtype=self.dtype, device=self.device),
            )
        return self._kv_by_layer[index]

    @torch.inference_mode()
    def copy_slots(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """Copy keys and values from slots to slots in every layer; the two lists may overlap."""
        sources = torch.tensor(source, device=self.device)
        destinations = torch.tensor(destination, device=self.device)
        for layer in self._kv_by_layer.values():
            for cache in layer:
                slots = cache.flatten(0, 1)
                slots.index_copy_(0, destinations, slots.index_select(0, sources))


class BlockTable:
    """One sequence's blocks: `length` accepted tokens, after which the next forward writes its rows."""

    def __init__(self, block_manager: BlockManager, salt: str = "") -> None:
        """Only sequences of the same `salt` share cached blocks."""
        self._manager = block_manager
        self._salt = hashlib.sha256(salt.encode()).digest()
        self._blocks: list[int] = []
        self._block_hashes: list[bytes] = []  # of the leading blocks that are in the prefix cache
        self.length = 0

    @property
    def holds_blocks(self) -> bool:
        return bool(self._blocks)

    def match_prefix(self, text: Sequence[int]) -> None:
        """Fill an empty table with the longest cached prefix of `text`.

        The last token is never matched, since it has to be computed for its logits.
        """
        for start in range(0, len(text) - BLOCK_SIZE, BLOCK_SIZE):
            block_hash = self._hash_block(text[start : start + BLOCK_SIZE])
            block = self._manager.get_cached_block(block_hash)
            if block is None:
                break
            self._blocks.append(block)
            self._block_hashes.append(block_hash)
            self.length += BLOCK_SIZE

    def cache_blocks(self, text: Sequence[int]) -> None:
        """Register this sequence's full blocks in the prefix cache. `text` is its tokens, at least `length` of them."""
        for start in range(len(self._block_hashes) * BLOCK_SIZE, self.length - BLOCK_SIZE + 1, BLOCK_SIZE):
            block_hash = self._hash_block(text[start : start + BLOCK_SIZE])
            self._manager.cache_block(self._blocks[start // BLOCK_SIZE], block_hash)
            self._block_hashes.append(block_hash)

    def reserve_slots(self, num_rows: int) -> None:
        """See SequenceSlots."""
        missing = num_blocks(self.length + num_rows) - len(self._blocks)
        if missing > 0:
            self._blocks.extend(self._manager.allocate(missing))

    def blocks(self, num_rows: int) -> list[int]:
        """The blocks of the sequence and of `num_rows` reserved rows after it, in order."""
        return self._blocks[: num_blocks(self.length + num_rows)]

    def slot_mapping(self, start: int, stop: int) -> list[int]:
        """The slots of positions start to stop."""
        return [self._blocks[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(start, stop)]

    def keep_accepted(self, rows: Sequence[int]) -> None:
        """Append accepted `rows` of the last forward to the sequence: ascending, each the parent of the next."""
        self.keep_rows(rows, ())

    def keep_rows(self, accepted: Sequence[int], kept: Sequence[int]) -> None:
        """See SequenceSlots."""
        rows = [*accepted, *kept]
        moves = [(row, place) for place, row in enumerate(rows) if row != place]
        if moves:
            slots = self.slot_mapping(self.length, self.length + rows[-1] + 1)
            self._manager.copy_slots([slots[row] for row, _ in moves], [slots[place] for _, place in moves])
        self.length += len(accepted)
        self._free_after(self.length + len(kept))

    def truncate(self, length: int) -> None:
        """Drop all tokens after `length`, and all rows, and free their blocks.

        Raises ValueError for a length inside the cached blocks, unless it is 0: other sequences may be reading them.
        """
        if length == 0:
            self._block_hashes.clear()
        elif length < len(self._block_hashes) * BLOCK_SIZE:
            raise ValueError("cached blocks are final")
        self.length = length
        self._free_after(length)

    def _free_after(self, num_slots: int) -> None:
        needed = num_blocks(num_slots)
        self._manager.free(self._blocks[needed:])
        del self._blocks[needed:]

    def _hash_block(self, tokens: Sequence[int]) -> bytes:
        parent = self._block_hashes[-1] if self._block_hashes else self._salt
        return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()
