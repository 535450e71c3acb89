"""A drain ends with what runs, and with the grace period at the latest."""

from __future__ import annotations

import asyncio

import pytest

from edgedraft.serving.drain import Drain
from edgedraft.serving.drain import log as drain_log
from tests.support.waiting import until


async def test_it_waits_for_what_runs_and_for_its_hooks() -> None:
    drain, called, go_on = Drain(60.0), list[str](), asyncio.Event()

    async def hook() -> None:
        called.append("hook")
        await go_on.wait()

    drain.hooks.append(hook)
    drain.enter()
    drain.enter()
    assert not drain.begun
    running = asyncio.create_task(drain.run())
    await until(lambda: called)
    assert drain.begun
    drain.exit()
    go_on.set()
    await asyncio.sleep(0)
    assert not running.done()
    drain.exit()
    await asyncio.wait_for(running, 60)
    assert called == ["hook"]


async def test_without_anything_that_runs_it_ends_at_once() -> None:
    await asyncio.wait_for(Drain(60.0).run(), 60)


async def test_the_grace_period_bounds_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    drain = Drain(0.01)
    drain.enter()
    await asyncio.wait_for(drain.run(), 60)
    said = [(record.getMessage(), vars(record)["fields"]) for record in caplog.records if record.name == drain_log.name]
    assert said == [("draining", {"grace": 0.01, "requests": 1}), ("drained", {"requests": 1})]
