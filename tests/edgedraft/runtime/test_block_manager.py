"""KV cache blocks: cached text is found only under its salt, and no block is lost or written while shared."""

from __future__ import annotations

import random

import pytest
import torch

from edgedraft.runtime.block_manager import BLOCK_SIZE, BlockManager, BlockTable, OutOfBlocks


def cache(blocks: int) -> BlockManager:
    return BlockManager(blocks * BLOCK_SIZE, torch.float32, torch.device("cpu"))


def filled(kv: BlockManager, text: list[int], salt: str = "") -> BlockTable:
    sequence = BlockTable(kv, salt)
    sequence.match_prefix(text)
    rows = len(text) - sequence.length
    sequence.reserve_slots(rows)
    sequence.keep_accepted(range(rows))
    sequence.cache_blocks(text)
    return sequence


def test_match_prefix_finds_full_blocks_short_of_the_last_token() -> None:
    kv, text = cache(16), list(range(3 * BLOCK_SIZE))
    first = filled(kv, text)
    for length, matched in ((3 * BLOCK_SIZE, 2), (3 * BLOCK_SIZE + 1, 3), (BLOCK_SIZE, 0), (BLOCK_SIZE + 1, 1)):
        second = BlockTable(kv)
        second.match_prefix([*text, 7][:length])
        assert second.length == matched * BLOCK_SIZE
        assert second.slot_mapping(0, second.length) == first.slot_mapping(0, second.length)
        second.truncate(0)


def test_another_salt_or_another_beginning_does_not_match() -> None:
    kv, text = cache(16), list(range(3 * BLOCK_SIZE))
    filled(kv, text, salt="one tenant")
    for sequence, wanted in (
        (BlockTable(kv, "another"), text),
        (BlockTable(kv, "one tenant"), [99, *text[1:]]),
        (BlockTable(kv, "one tenant"), text[BLOCK_SIZE:]),
    ):
        sequence.match_prefix(wanted)
        assert sequence.length == 0


def test_eviction_is_lru_and_takes_a_texts_last_block_first() -> None:
    kv = cache(4)
    old, new = list(range(2 * BLOCK_SIZE)), list(range(100, 100 + 2 * BLOCK_SIZE))
    filled(kv, old).truncate(0)
    filled(kv, new).truncate(0)
    assert kv.num_free_tokens == kv.num_tokens
    BlockTable(kv).reserve_slots(BLOCK_SIZE)  # evicts the last block of the older text
    for text, left in ((old, 1), (new, 2)):
        probe = BlockTable(kv)
        probe.match_prefix([*text, 0])
        assert probe.length == left * BLOCK_SIZE
        probe.truncate(0)


def test_shared_blocks_are_freed_with_their_last_reference() -> None:
    kv, text = cache(4), list(range(2 * BLOCK_SIZE + 1))
    first = filled(kv, text)
    second = BlockTable(kv)
    second.match_prefix(text)
    first.truncate(0)
    assert kv.num_free_tokens == 2 * BLOCK_SIZE
    with pytest.raises(OutOfBlocks):
        BlockTable(kv).reserve_slots(3 * BLOCK_SIZE)
    second.truncate(0)
    assert kv.num_free_tokens == kv.num_tokens


def test_cached_blocks_cannot_be_truncated() -> None:
    sequence = filled(cache(4), list(range(2 * BLOCK_SIZE + 3)))
    sequence.truncate(2 * BLOCK_SIZE)
    with pytest.raises(ValueError, match="final"):
        sequence.truncate(2 * BLOCK_SIZE - 1)


def test_kept_rows_move_behind_the_accepted_ones() -> None:
    dice = random.Random(5)
    for _ in range(100):
        kv, num_rows = cache(8), dice.randint(1, 60)
        keys, _ = kv.layer_kv(0, torch.zeros((1, 1, 1)), torch.zeros((1, 1, 1)))
        places = keys.flatten()
        sequence = BlockTable(kv)
        sequence.reserve_slots(7)
        sequence.keep_accepted(range(7))
        sequence.reserve_slots(num_rows)
        for row, slot in enumerate(sequence.slot_mapping(0, 7 + num_rows)):
            places[slot] = row
        rows = sorted(dice.sample(range(num_rows), dice.randint(0, num_rows)))
        accepted = dice.randint(0, len(rows))
        sequence.keep_rows(rows[:accepted], rows[accepted:])
        assert sequence.length == 7 + accepted
        kept = places[sequence.slot_mapping(7, 7 + len(rows))].tolist()
        assert kept == [7 + row for row in rows]
        assert kv.num_free_tokens == (8 - -(-(7 + len(rows)) // BLOCK_SIZE)) * BLOCK_SIZE


def test_random_traffic_never_shares_a_slot_between_different_texts() -> None:
    dice, kv = random.Random(3), cache(24)
    live: list[tuple[list[int], BlockTable]] = []
    held: dict[int, tuple[int, ...]] = {}  # slot -> the text up to and with the token in it
    for _ in range(3000):
        if live and dice.random() < 0.4:
            live.pop(dice.randrange(len(live)))[1].truncate(0)
            continue
        text = (
            [dice.randrange(2)] * BLOCK_SIZE
            + [dice.randrange(2)] * BLOCK_SIZE
            + dice.choices(range(3), k=dice.randrange(40))
        )
        sequence = BlockTable(kv)
        sequence.match_prefix(text)
        found, rows = sequence.length, len(text) - sequence.length
        for place, slot in enumerate(sequence.slot_mapping(0, found)):
            assert held[slot] == tuple(text[: place + 1]), "matched a block of another text"
        try:
            sequence.reserve_slots(rows)
        except OutOfBlocks:
            sequence.truncate(0)
            continue
        sequence.keep_accepted(range(rows))
        busy = {slot for other_text, other in live for slot in other.slot_mapping(0, len(other_text))}
        for place, slot in enumerate(sequence.slot_mapping(found, len(text)), found):
            assert slot not in busy, "wrote to a shared block"
            held[slot] = tuple(text[: place + 1])
        sequence.cache_blocks(text)
        live.append((text, sequence))
    for _, sequence in live:
        sequence.truncate(0)
    assert kv.num_free_tokens == kv.num_tokens
