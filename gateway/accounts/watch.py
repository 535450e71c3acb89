"""Detects that a key in long-term use was revoked or has expired, by one query for all watched keys.

Meant for agent links, which stay open for days. Running requests are not watched: they end within minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from gateway.accounts.keys import Accounts
from gateway.storage.database import DatabaseDown

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # between two checks


class KeyWatch:
    """Checks the watched keys periodically while there are any."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._checking: asyncio.Task[None] | None = None

    async def wait_revoked(self, digest: str) -> None:
        """Returns when the key of this digest (keys.key_digest) is revoked or expired.

        A key counts as active while the database cannot be reached.
        """
        revoked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[digest].add(revoked)
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check(), name="key watch")
        try:
            await revoked
        finally:
            self._waiting[digest].discard(revoked)
            if not self._waiting[digest]:
                del self._waiting[digest]

    async def _check(self) -> None:
        """Ends when no key is watched. It is not cancelled, because a cancelled query loses its connection."""
        while self._waiting:
            await asyncio.sleep(CHECK_SECONDS)
            watched = list(self._waiting)
            try:
                stopped = set(watched) - await self._accounts.active_keys(watched)
            except DatabaseDown:
                continue
            except Exception:
                log.exception("keys could not be looked at")  # checking goes on
                continue
            for digest in stopped:
                for revoked in self._waiting.get(digest, ()):
                    if not revoked.done():
                        revoked.set_result(None)
