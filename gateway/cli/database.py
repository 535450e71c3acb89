"""`edgedraft db upgrade`, and opening the database for the other commands."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from gateway.settings import DbUpgradeSettings
from gateway.storage.database import Database, DatabaseDown, SchemaError
from gateway.storage.migrations import HEAD


def main(settings: DbUpgradeSettings) -> None:
    """Migrates the schema and prints its version. Exits with 1 and a line on stderr if that fails."""

    async def print_version(database: Database) -> None:
        print(f"the database is at version {HEAD}")

    run_with_database(settings.database, print_version, "edgedraft db upgrade", upgrade=True)


def run_with_database(
    url: str, work: Callable[[Database], Awaitable[None]], command: str, upgrade: bool | None = None
) -> None:
    """Runs `work` on an open database. SQLite is migrated first; PostgreSQL only with `upgrade`.

    Exits with 1 and a line on stderr if the schema version differs or the database cannot be reached.
    """

    async def opened() -> None:
        database = Database(url)
        try:
            await database.open(upgrade=database.embedded if upgrade is None else upgrade)
            await work(database)
        finally:
            await database.close()

    try:
        asyncio.run(opened())
    except SchemaError as error:
        sys.exit(f"{command}: {error}")
    except DatabaseDown as error:
        sys.exit(f"{command}: the database cannot be reached: {error}")
