"""Slots of the ONNX drafter's KV cache: what is written stays with its token, and capacity is exactly accounted for."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_agent.onnx.kv_cache import KvPool, KvSlots
from edgedraft.runtime.blocks import OutOfBlocks


def write(slots: KvSlots, row: int, values: list[int]) -> None:
    array = np.array(values, np.float32)[None, :, None]
    slots.write(row, [array, -array], 0, len(values))


def held(slots: KvSlots, count: int) -> list[int]:
    keys, values = slots.view(count)
    assert (values == -keys).all()
    return keys[0, :, 0].astype(int).tolist()


def test_over_random_commits_slots_hold_what_was_written_to_them() -> None:
    pool, rng = KvPool(4096, 2, 1, 1, np.dtype(np.float32)), random.Random(5)
    slots = KvSlots(pool)
    tokens: list[int] = []
    rows: list[int] = []
    for number in range(400):
        new = [number * 100 + i for i in range(rng.randint(1, 40))]
        slots.reserve_slots(len(rows) + len(new))
        write(slots, len(rows), new)
        rows += new
        assert held(slots, len(tokens) + len(rows)) == tokens + rows
        chosen = sorted(rng.sample(range(len(rows)), rng.randint(0, len(rows))))
        cut = rng.randint(0, len(chosen))
        slots.keep_rows(chosen[:cut], chosen[cut:])
        tokens, rows = tokens + [rows[i] for i in chosen[:cut]], [rows[i] for i in chosen[cut:]]
        if len(tokens) > 1500 or rng.random() < 0.05:
            length = rng.randint(0, len(tokens))
            slots.truncate(length)
            tokens, rows = tokens[:length], []
        blocks = -(-(len(tokens) + len(rows)) // 16)
        assert pool.num_free == pool.num_blocks - blocks
        assert slots.complete_view().shape[2] <= 16 * (blocks * 1.25 + 9), "little more memory than is accounted for"
    slots.truncate(0)
    assert (pool.num_free, slots.complete_view().nbytes, slots.holds_blocks) == (256, 0, False)


def test_without_free_blocks_nothing_changes() -> None:
    pool = KvPool(64, 2, 1, 1, np.dtype(np.float32))
    first, second = KvSlots(pool), KvSlots(pool)
    first.reserve_slots(40)
    write(first, 0, list(range(1, 41)))
    with pytest.raises(OutOfBlocks):
        second.reserve_slots(17)
    with pytest.raises(OutOfBlocks):
        first.reserve_slots(65)
    assert held(first, 40) == list(range(1, 41))
    second.reserve_slots(16)
    assert pool.num_free == 0
