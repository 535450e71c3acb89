"""`edgedraft db upgrade`, and what all commands that work on the database have in common."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from gateway.settings import DbUpgradeSettings
from gateway.storage.database import Database, DatabaseDown, SchemaError
from gateway.storage.migrations import HEAD


def main(settings: DbUpgradeSettings) -> None:
    """Bring the schema up to date and tell its version. Exits 1 with a line on stderr when that fails."""

    async def tell(database: Database) -> None:
        print(f"the database is at version {HEAD}")

    run_with_database(settings.database, tell, "edgedraft db upgrade", upgrade=True)


def run_with_database(
    url: str, work: Callable[[Database], Awaitable[None]], command: str, upgrade: bool | None = None
) -> None:
    """Do `work` on an open database. An embedded one is brought up to date first; others only where `upgrade` says so.

    Exits 1 with a line on stderr when the database is of another version or cannot be reached.
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
