"""The gateway's SQL database, SQLite or PostgreSQL: connections, transactions and schema version.

SQLite runs in WAL mode with synchronous=NORMAL: committed data survives a killed process, but the last transactions may
be lost at a power failure; use PostgreSQL where that is not acceptable. The schema is in tables.py, its history in
migrations/.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import AdaptedConnection, BigInteger, Connection, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from edgedraft.private_files import make_private_file, make_private_folder, narrow
from gateway.storage.migrations import HEAD

BUSY_SECONDS = 5.0  # a writer of SQLite waits for another writer
CONNECT_SECONDS = 5.0
COMMAND_SECONDS = 15.0

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_UPGRADE_LOCK = 0x65646765  # an arbitrary id, the same in every replica
_PROGRAM_ERRORS = (
    IntegrityError,
    ProgrammingError,
    DataError,
    NotSupportedError,
)  # errors of this program, not of the database


class DatabaseDown(Exception):
    """The database cannot be reached or does not answer. Whether a transaction was committed is unknown."""


class SchemaError(Exception):
    """Unsupported URL, missing driver or another schema version. The message says what to do."""


def _make_private(file: Path) -> None:
    """Create SQLite's file so that only its owner may read it, or take the rights of others; so are its companions.

    SQLite gives files that it makes beside it the same rights.
    """
    make_private_folder(file.parent)
    with suppress(OSError):  # SQLite's own error says more
        make_private_file(file)
    for companion in ("-wal", "-shm", "-journal"):
        narrow(file.with_name(file.name + companion))


class now_ms(FunctionElement[int]):
    """SQL function: the database's clock in milliseconds since the epoch, the same for all replicas."""

    type = BigInteger()
    inherit_cache = True


@compiles(now_ms, "sqlite")
def _sqlite_now(element: now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(now_ms, "postgresql")
def _postgres_now(element: now_ms, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


class Database:
    """One database by its SQLAlchemy URL. Use between open() and close()."""

    def __init__(self, url: str) -> None:
        """Raises SchemaError if the URL is not one of SQLite or PostgreSQL, or the driver is not installed."""
        self._url = _with_driver(url)
        self.embedded = self._url.get_backend_name() == "sqlite"
        self._engine = _engine(self._url, COMMAND_SECONDS)
        self._write_engine = self._engine.execution_options(writes=True)

    async def open(self, upgrade: bool = True) -> None:
        """Migrates the schema, or with upgrade=False only checks its version. Safe in several processes at once.

        Raises SchemaError or DatabaseDown.
        """
        if self.embedded and self._url.database and self._url.database != ":memory:":
            _make_private(Path(self._url.database))
        if await self.revision() == HEAD:
            return
        if not upgrade:
            raise SchemaError("the database is not of this version; run: edgedraft db upgrade")
        await self._upgrade()

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[AsyncConnection]:
        """A connection for reading. Raises DatabaseDown."""
        with _translate_errors():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction for writing, committed at the end of the context. Raises DatabaseDown."""
        with _translate_errors():
            async with self._write_engine.begin() as connection:
                yield connection

    async def revision(self) -> str | None:
        """The schema version; None for an empty database. Raises DatabaseDown."""
        async with self.connect() as connection:
            return await connection.run_sync(_revision)

    async def _upgrade(self) -> None:
        from gateway.storage.migrations.upgrade import UnknownRevision, upgrade

        # Without COMMAND_SECONDS: migrating a large table takes longer.
        engine = self._engine if self.embedded else _engine(self._url, None)
        try:
            with _translate_errors():
                async with engine.execution_options(writes=True).begin() as connection:
                    if not self.embedded:
                        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
                    await connection.run_sync(upgrade)
        except UnknownRevision as error:
            raise SchemaError(f"the database was made by a later version of edgedraft: {error}") from error
        finally:
            if engine is not self._engine:
                await engine.dispose()


class _translate_errors:
    """Context that turns connection and server errors into DatabaseDown; errors of this program pass unchanged."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DBAPIError) and (error.connection_invalidated or not isinstance(error, _PROGRAM_ERRORS)):
            raise DatabaseDown(str(error.orig)) from error
        if isinstance(error, OSError | TimeoutError | PoolTimeout):
            raise DatabaseDown(str(error) or type(error).__name__) from error


def _with_driver(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SchemaError(f"the database's URL cannot be read: {error}") from error
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.drivername not in _DRIVERS.values():
        raise SchemaError(f"{parsed.drivername} is not supported; take sqlite or postgresql")
    return parsed


def _engine(url: URL, command_seconds: float | None) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_async_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=CONNECT_SECONDS,
            connect_args={"timeout": CONNECT_SECONDS, "command_timeout": command_seconds},
        )
    except ModuleNotFoundError as error:
        raise SchemaError("PostgreSQL needs its driver: pip install 'edgedraft[postgres]'") from error


def _prepare_sqlite(connection: AdaptedConnection, record: object) -> None:
    connection.run_async(_set_up_sqlite)


async def _set_up_sqlite(connection: aiosqlite.Connection) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself; _begin_sqlite does
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000:.0f}", "synchronous=NORMAL", "foreign_keys=ON"):
        await connection.execute_fetchall(f"PRAGMA {pragma}")
    # A file keeps its mode. SQLite changes it from within a transaction that has read, where it does not wait for
    # another writer: of several processes that open a new file at once, all but one are told "database is locked".
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(sqlite3.OperationalError),
        stop=stop_after_delay(BUSY_SECONDS),
        wait=wait_random(0.01, 0.1),
        reraise=True,
    ):
        with attempt:
            await connection.execute_fetchall("PRAGMA journal_mode=WAL")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE, because a transaction that reads before it writes fails if another one wrote in between.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
