"""A body's parts, in whatever sizes they arrive."""

from __future__ import annotations

import tracemalloc

import pytest

from gateway.http.bodies.body import BodyPieces

SIZE = 1 << 20


@pytest.mark.parametrize("part", [1, 1000, (1 << 18) - 1, 1 << 18, 3 << 18, SIZE])
async def test_parts_of_any_size_are_one_body(part: int) -> None:
    content = bytes(range(256)) * (SIZE // 256)
    body = BodyPieces()
    for start in range(0, SIZE, part):
        body.add(content[start : start + part])
    assert body.size == SIZE
    assert await body.joined() == content


async def test_an_empty_body() -> None:
    assert await BodyPieces().joined() == b""


def test_single_bytes_take_no_more_room_than_a_few_large_parts() -> None:
    body = BodyPieces()
    tracemalloc.start()
    try:
        for _ in range(SIZE):
            body.add(b"a")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 2 * SIZE
