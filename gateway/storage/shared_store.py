"""The Redis or Valkey that replicas share: one client, short waits, and a rest after a failure.

Nothing here is needed to serve a request. Whoever calls gets StoreDown in good time and goes on without.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import Gauge
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError, RedisError

from edgedraft.observability.logs import event

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0  # for a connection, for an answer, and in line for one of the CONNECTIONS
BACKOFF_SECONDS = 1.0  # without a try after a failure; then one call tries, so that requests do not each wait for it
CONNECTIONS = 8  # scripts take microseconds: a few connections carry many thousands a second


class StoreDown(Exception):
    """The store did not answer, or lately did not."""


class SharedStore:
    """`up` is set to 1 or 0 as calls succeed or fail. Raises ValueError for what is no Redis URL."""

    def __init__(self, url: str, up: Gauge) -> None:
        self._client = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT_SECONDS,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # Once: a pooled connection that the server has closed meanwhile says nothing about the server.
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            )
        )
        self._scripts: dict[str, AsyncScript] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self._up = up
        self._down = False
        self._probing = False
        self._backoff_until = 0.0

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        """The result of a Lua script, which is atomic. Raises StoreDown."""
        if self._down and (self._probing or time.monotonic() < self._backoff_until):
            raise StoreDown("the shared store did not answer lately")
        self._probing = self._down
        # By itself: the client may lose the connection, and the cancellation too, of a call that is cancelled.
        task = asyncio.create_task(self._run(script, keys, arguments))
        self._calls.add(task)
        task.add_done_callback(self._forget_call)
        return await asyncio.shield(task)

    async def close(self) -> None:
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._client.aclose()

    def _forget_call(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may not wait for it any more

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        try:
            if script not in self._scripts:
                self._scripts[script] = self._client.register_script(script)
            result = await self._scripts[script](keys, arguments)
        except (RedisError, OSError, TimeoutError) as error:
            self._backoff_until = time.monotonic() + BACKOFF_SECONDS
            self._record_state(down=str(error) or type(error).__name__)
            raise StoreDown(str(error)) from error
        finally:
            self._probing = False
        self._record_state(down="")
        return result

    def _record_state(self, down: str) -> None:
        self._up.set(0 if down else 1)
        if down and not self._down:
            event(log, "shared store lost", level=logging.WARNING, reason=down)
        elif self._down and not down:
            event(log, "shared store back")
        self._down = bool(down)
