"""Whether keys that stay in use for long still work: one look at the database for all of them, not one for each.

What stands under a key for minutes (a request's answer) is let end; what stands for days (an agent's link) is watched.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from gateway.accounts.keys import Accounts
from gateway.storage.database import DatabaseDown

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # between two looks


class KeyWatch:
    """Looks for as long as anybody waits."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._checking: asyncio.Task[None] | None = None

    async def wait_revoked(self, key: str) -> None:
        """Wait until this key works no more. While the database is away it is taken to work."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(told)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(), name="key watch")
        try:
            await told
        finally:
            self._waiting[key].discard(told)
            if not self._waiting[key]:
                del self._waiting[key]

    async def _check(self) -> None:
        """Ends by itself when nobody waits: a query that is cancelled midway costs its connection."""
        while self._waiting:
            await asyncio.sleep(CHECK_SECONDS)
            watched = list(self._waiting)
            try:
                stopped = set(watched) - await self._accounts.active_keys(watched)
            except DatabaseDown:
                continue
            except Exception:
                log.exception("keys could not be looked at")  # nor may that be the last look
                continue
            for key in stopped:
                for told in self._waiting.get(key, ()):
                    if not told.done():
                        told.set_result(None)
