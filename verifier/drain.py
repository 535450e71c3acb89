"""What a verifier's drain waits for: the open sessions, and the frames that carry their last commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgedraft.serving.drain import Drain

POLL_SECONDS = 0.05
LAST_COMMITS_SECONDS = 0.1  # for the last commits to be sent


def wait_for_sessions(drain: Drain, has_sessions: Callable[[], bool]) -> None:
    """Have `drain` wait until no session is open. Those that outlast it are reopened at another verifier."""

    async def finished() -> None:
        while has_sessions():  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(LAST_COMMITS_SECONDS)

    drain.hooks.append(finished)
    drain.status = lambda: {"left": has_sessions()}
