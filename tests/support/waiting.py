"""Waiting for something to become true, for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 60.0  # seconds for what takes milliseconds: the machine may be busy with other things


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition()` holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def until_true(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    """Wait until what `condition()` asks of others, such as a database, is so. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """`until` for tests without an event loop. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
