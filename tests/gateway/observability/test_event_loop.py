"""The watch of the event loop: it measures what holds the loop, names it, and does not count other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from gateway.observability import event_loop
from gateway.observability.event_loop import EventLoopWatch
from tests.gateway.conftest import Gateway
from tests.support.event_loop import longest_hold
from tests.support.waiting import until


@pytest_asyncio.fixture
async def watch() -> AsyncIterator[EventLoopWatch]:
    made = EventLoopWatch(CollectorRegistry())
    running = asyncio.create_task(made.run())
    await asyncio.sleep(3 * event_loop.BEAT)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def compute(seconds: float) -> None:
    until_ = time.thread_time() + seconds
    while time.thread_time() < until_:
        pass


async def hold_the_loop(seconds: float) -> None:
    compute(seconds)


async def test_what_holds_the_loop_is_measured_and_named(
    watch: EventLoopWatch, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.create_task(hold_the_loop(0.2))
    await until(lambda: watch.longest() > 0.15)
    (line,) = [record.getMessage() for record in caplog.records if "event loop was held" in record.getMessage()]
    assert "hold_the_loop in compute (test_event_loop.py:" in line
    # A second one right after is measured, and not logged.
    await asyncio.create_task(hold_the_loop(0.3))
    await until(lambda: watch.longest() > 0.25)
    assert sum("event loop was held" in record.getMessage() for record in caplog.records) == 1


async def test_waiting_is_no_hold(watch: EventLoopWatch) -> None:
    time.sleep(0.2)  # noqa: ASYNC251  as when another process has the processor
    await asyncio.sleep(4 * event_loop.BEAT)
    assert watch.longest() < 0.1


async def test_the_longest_of_the_last_minute_counts(watch: EventLoopWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    await asyncio.create_task(hold_the_loop(0.1))
    await until(lambda: watch.longest() > 0.05)
    monkeypatch.setattr(event_loop, "WINDOW", -1.0)
    assert watch.longest() == 0


async def test_a_gateway_exports_it(gateway: Gateway) -> None:
    await asyncio.create_task(hold_the_loop(0.2))
    await asyncio.sleep(4 * event_loop.BEAT)
    assert await asyncio.to_thread(longest_hold, gateway.url) > 0.1
