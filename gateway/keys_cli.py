"""`edgedraft keys create|list|revoke`: what an operator does to the accounts' database, beside a running gateway."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgedraft.settings import KeysCreateSettings, KeysListSettings, KeysRevokeSettings
from gateway.accounts import Accounts, KeyRecord


def main(settings: KeysCreateSettings | KeysListSettings | KeysRevokeSettings) -> None:
    """Run one of the three. Exits 1 with a line on stderr when there is no such key to revoke."""
    asyncio.run(_run(settings))


async def _run(settings: KeysCreateSettings | KeysListSettings | KeysRevokeSettings) -> None:
    accounts = Accounts(settings.database)
    await accounts.open()
    try:
        match settings:
            case KeysCreateSettings():
                print(await accounts.create(settings.owner, settings.tenant, settings.scopes, settings.name))
                print("This key is shown only now.", file=sys.stderr)
            case KeysListSettings():
                _show(await accounts.list())
            case KeysRevokeSettings():
                if not await accounts.revoke(settings.key_id):
                    sys.exit(f"edgedraft keys revoke: no working key has the id {settings.key_id}")
                print(f"revoked {settings.key_id}")
    finally:
        await accounts.close()


def _show(records: list[KeyRecord]) -> None:
    """A table for people; tab-separated lines where stdout is no terminal."""
    titles = ("id", "key", "owner", "tenant", "scopes", "name", "created", "revoked")
    rows = [
        (r.id, f"{r.prefix}…", r.owner, r.tenant, " ".join(r.scopes), r.name, _time(r.created), _time(r.revoked))
        for r in records
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    table = Table(*titles)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _time(seconds: int | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
