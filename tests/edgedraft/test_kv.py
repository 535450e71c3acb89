"""The KV cache's books: published text is found under its salt alone; no block is lost, or written while shared."""

from __future__ import annotations

import random

import pytest
import torch

from edgedraft.kv import BLOCK, KVSequence, OutOfBlocks, PagedKV


def cache(blocks: int) -> PagedKV:
    return PagedKV(blocks * BLOCK, torch.float32, torch.device("cpu"))


def filled(kv: PagedKV, text: list[int], salt: str = "") -> KVSequence:
    sequence = KVSequence(kv, salt)
    sequence.adopt(text)
    rows = len(text) - sequence.length
    sequence.reserve(rows)
    sequence.keep(range(rows))
    sequence.publish(text)
    return sequence


def test_a_text_is_found_by_its_full_blocks_short_of_its_last_token() -> None:
    kv, text = cache(16), list(range(3 * BLOCK))
    first = filled(kv, text)
    for length, adopted in ((3 * BLOCK, 2), (3 * BLOCK + 1, 3), (BLOCK, 0), (BLOCK + 1, 1)):
        second = KVSequence(kv)
        second.adopt([*text, 7][:length])
        assert second.length == adopted * BLOCK
        assert second.slots(0, second.length) == first.slots(0, second.length)
        second.truncate(0)


def test_another_salt_or_another_beginning_finds_nothing() -> None:
    kv, text = cache(16), list(range(3 * BLOCK))
    filled(kv, text, salt="one tenant")
    for sequence, wanted in (
        (KVSequence(kv, "another"), text),
        (KVSequence(kv, "one tenant"), [99, *text[1:]]),
        (KVSequence(kv, "one tenant"), text[BLOCK:]),
    ):
        sequence.adopt(wanted)
        assert sequence.length == 0


def test_what_nobody_holds_is_kept_until_its_room_is_needed_the_oldest_tail_first() -> None:
    kv = cache(4)
    old, new = list(range(2 * BLOCK)), list(range(100, 100 + 2 * BLOCK))
    filled(kv, old).truncate(0)
    filled(kv, new).truncate(0)
    assert kv.free_tokens == kv.tokens
    KVSequence(kv).reserve(BLOCK)  # takes the tail of the older text
    for text, left in ((old, 1), (new, 2)):
        probe = KVSequence(kv)
        probe.adopt([*text, 0])
        assert probe.length == left * BLOCK
        probe.truncate(0)


def test_shared_blocks_are_held_until_the_last_holder_lets_go() -> None:
    kv, text = cache(4), list(range(2 * BLOCK + 1))
    first = filled(kv, text)
    second = KVSequence(kv)
    second.adopt(text)
    first.truncate(0)
    assert kv.free_tokens == 2 * BLOCK
    with pytest.raises(OutOfBlocks):
        KVSequence(kv).reserve(3 * BLOCK)
    second.truncate(0)
    assert kv.free_tokens == kv.tokens


def test_published_text_is_final() -> None:
    sequence = filled(cache(4), list(range(2 * BLOCK + 3)))
    sequence.truncate(2 * BLOCK)
    with pytest.raises(ValueError, match="final"):
        sequence.truncate(2 * BLOCK - 1)


def test_random_traffic_never_shares_a_slot_between_different_texts() -> None:
    dice, kv = random.Random(3), cache(24)
    live: list[tuple[list[int], KVSequence]] = []
    held: dict[int, tuple[int, ...]] = {}  # slot -> the text up to and with the token in it
    for _ in range(3000):
        if live and dice.random() < 0.4:
            live.pop(dice.randrange(len(live)))[1].truncate(0)
            continue
        text = [dice.randrange(2)] * BLOCK + [dice.randrange(2)] * BLOCK + dice.choices(range(3), k=dice.randrange(40))
        sequence = KVSequence(kv)
        sequence.adopt(text)
        found, rows = sequence.length, len(text) - sequence.length
        for place, slot in enumerate(sequence.slots(0, found)):
            assert held[slot] == tuple(text[: place + 1]), "adopted what another text wrote"
        try:
            sequence.reserve(rows)
        except OutOfBlocks:
            sequence.truncate(0)
            continue
        sequence.keep(range(rows))
        busy = {slot for other_text, other in live for slot in other.slots(0, len(other_text))}
        for place, slot in enumerate(sequence.slots(found, len(text)), found):
            assert slot not in busy, "wrote where another reads"
            held[slot] = tuple(text[: place + 1])
        sequence.publish(text)
        live.append((text, sequence))
    for _, sequence in live:
        sequence.truncate(0)
    assert kv.free_tokens == kv.tokens
