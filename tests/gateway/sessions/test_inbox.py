"""A session's inbox: messages in order, and silence noticed by one timer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from gateway.sessions.inbox import Inbox

LONG = 3600.0  # seconds; the clock below makes them pass


class Clock:
    """The loop's clock and timers, under the test's control."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.started = 0
        self._timers: list[tuple[float, asyncio.Handle]] = []
        self._loop = loop
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self._call_at)

    def _call_at(self, when: float, callback: Callable[..., object], *arguments: Any) -> asyncio.Handle:
        self.started += 1
        handle = asyncio.Handle(callback, list(arguments), self._loop)
        self._timers.append((when, handle))
        return handle

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [handle for when, handle in self._timers if when <= self.now]
        self._timers = [timer for timer in self._timers if timer[0] > self.now]
        for handle in due:
            if not handle.cancelled():
                handle._run()
        await self.let_run()

    @property
    def running(self) -> int:
        return sum(not handle.cancelled() for _, handle in self._timers)

    @staticmethod
    async def let_run() -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def clock() -> AsyncIterator[Clock]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Clock(asyncio.get_running_loop(), monkeypatch)


async def test_messages_are_read_in_order_whether_or_not_the_reader_waits(clock: Clock) -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.put(2)
    assert [await inbox.get(LONG), await inbox.get(LONG)] == [1, 2]
    assert inbox.is_empty
    reading = asyncio.create_task(inbox.get(LONG))
    await clock.let_run()
    inbox.put(3)
    inbox.put(4)
    assert [await reading, await inbox.get(LONG)] == [3, 4]


async def test_silence_counts_from_the_last_read_and_takes_one_timer(clock: Clock) -> None:
    inbox: Inbox[int] = Inbox()
    for number in range(100):
        reading = asyncio.create_task(inbox.get(LONG))
        await clock.let_run()
        inbox.put(number)
        assert await reading == number
    assert clock.started == 1
    await clock.advance(LONG / 2)
    reading = asyncio.create_task(inbox.get(LONG))
    await clock.let_run()
    await clock.advance(LONG / 2)  # the timer's end, and half of this wait
    assert not reading.done()
    await clock.advance(LONG / 2)
    assert reading.done()
    assert await reading is None


async def test_a_shorter_wait_ends_first(clock: Clock) -> None:
    inbox: Inbox[int] = Inbox()
    reading = asyncio.create_task(inbox.get(LONG))
    await clock.let_run()
    inbox.put(1)
    assert await reading == 1
    reading = asyncio.create_task(inbox.get(1.0))
    await clock.let_run()
    await clock.advance(1.0)
    assert reading.done()
    assert await reading is None


async def test_a_cancelled_read_loses_nothing_and_no_timer_outlives_the_inbox(clock: Clock) -> None:
    inbox: Inbox[int] = Inbox()
    reading = asyncio.create_task(inbox.get(LONG))
    await clock.let_run()
    inbox.put(1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert await inbox.get(LONG) == 1
    inbox.close()
    assert not clock.running
