"""The simulation's clock on an event loop."""

from __future__ import annotations

import asyncio

from loadtest.scale.live_load import LoopClock


async def test_callbacks_keep_their_order_on_the_event_loops_time() -> None:
    clock, seen, ended = LoopClock(), list[int](), asyncio.Event()
    soon, late = clock.now + 0.01, clock.now + 0.02
    for number in range(200):
        clock.call_at(late if number % 2 else soon, lambda number=number: seen.append(number))
    clock.call_at(late, ended.set)
    async with asyncio.timeout(30):
        await ended.wait()
    assert seen == [*range(0, 200, 2), *range(1, 200, 2)]
