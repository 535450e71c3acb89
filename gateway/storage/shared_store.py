"""The Redis or Valkey that replicas share: one client with short timeouts and a backoff after a failure.

Requests can be served without it: callers get StoreDown quickly and continue with local state.
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

TIMEOUT_SECONDS = 1.0  # to connect, to get a reply, and to get one of the CONNECTIONS
BACKOFF_SECONDS = 1.0  # calls fail at once for this long after a failure; then a single call probes the store
CONNECTIONS = 8  # scripts take microseconds: a few connections serve many thousands per second


class StoreDown(Exception):
    """The store did not answer, or the backoff after a failure has not passed."""


class SharedStore:
    """Runs Lua scripts. `up` is set to 1 or 0 as calls succeed or fail. Raises ValueError for an invalid URL."""

    def __init__(self, url: str, up: Gauge) -> None:
        self._client = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT_SECONDS,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # One retry: the server may have closed a pooled connection while it was idle.
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
        """Runs a Lua script, atomically, and returns its result. Raises StoreDown."""
        if self._down and (self._probing or time.monotonic() < self._backoff_until):
            raise StoreDown("the shared store did not answer lately")
        self._probing = self._down
        # A task of its own: cancelling a call of the client can lose its connection, and the cancellation itself.
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
            task.exception()  # marks the error as retrieved: the caller may have been cancelled

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
