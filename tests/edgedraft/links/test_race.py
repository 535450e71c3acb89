"""The first of several coroutines to end ends all."""

from __future__ import annotations

import asyncio

import pytest

from edgedraft.links.race import race


async def test_the_first_to_end_ends_all() -> None:
    ended: list[str] = []

    async def work(name: str, until: asyncio.Event) -> str:
        try:
            await until.wait()
            return name
        finally:
            ended.append(name)

    never, now = asyncio.Event(), asyncio.Event()
    now.set()
    assert await race(work("slow", never), work("quick", now)) == "quick"
    assert sorted(ended) == ["quick", "slow"]
    task = asyncio.create_task(race(work("one", never), work("two", never)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["one", "quick", "slow", "two"]


async def test_an_exception_is_raised_and_of_several_the_leftmost() -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(KeyError):
        await race(fail(KeyError()), fail(ValueError()))
