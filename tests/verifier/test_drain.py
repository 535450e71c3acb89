"""A verifier's drain waits for its sessions."""

from __future__ import annotations

import asyncio

from edgedraft.serving.drain import Drain
from verifier.drain import wait_for_sessions


async def test_it_ends_when_no_session_is_open() -> None:
    asked = 0

    def has_sessions() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    drain = Drain(60.0)
    wait_for_sessions(drain, has_sessions)
    await asyncio.wait_for(drain.run(), 60)
    assert asked >= 3
    assert drain.status() == {"left": False}


async def test_sessions_that_outlast_the_grace_period_are_left() -> None:
    drain = Drain(0.01)
    wait_for_sessions(drain, lambda: True)
    await asyncio.wait_for(drain.run(), 60)
    assert drain.status() == {"left": True}
