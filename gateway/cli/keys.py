"""`edgedraft keys create|list|update|revoke`: manages keys in the database, while gateways run or not."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from gateway.accounts import Accounts, KeyLimits, KeyRecord
from gateway.cli.database import run_with_database
from gateway.cli.tables import print_table
from gateway.ledger.money import to_nano, to_text
from gateway.settings import KeysCreateSettings, KeysListSettings, KeysRevokeSettings, KeysUpdateSettings

KeysSettings = KeysCreateSettings | KeysListSettings | KeysUpdateSettings | KeysRevokeSettings

TITLES = ("id", "key", "owner", "tenant", "scopes", "name", "created", "expires", "revoked", "limits")


def main(settings: KeysSettings) -> None:
    """Runs one of the four commands. Exits with 1 and a line on stderr for an unknown key."""
    run_with_database(
        settings.database,
        lambda database: _run(settings, Accounts(database)),
        f"edgedraft keys {_subcommand(settings)}",
    )


async def _run(settings: KeysSettings, accounts: Accounts) -> None:
    match settings:
        case KeysCreateSettings():
            limits = KeyLimits(
                settings.requests_per_minute,
                settings.tokens_per_minute,
                settings.concurrent,
                None if settings.monthly_spend is None else to_nano(settings.monthly_spend),
                settings.priority,
            )
            expires = None if settings.expires is None else int(time.time() + settings.expires * 86400)
            print(
                await accounts.create(
                    settings.owner, settings.tenant, settings.scopes, settings.name, limits, expires, create_tenant=True
                )
            )
            print("This key is shown only now.", file=sys.stderr)
        case KeysListSettings():
            print_table(TITLES, [_row(record) for record in await accounts.list()])
        case KeysUpdateSettings():
            if not await accounts.update(settings.key_id, _changes(settings)):
                sys.exit(f"edgedraft keys update: no working key has the id {settings.key_id}")
            print(f"updated {settings.key_id}")
        case KeysRevokeSettings():
            if not await accounts.revoke(settings.key_id):
                sys.exit(f"edgedraft keys revoke: no working key has the id {settings.key_id}")
            print(f"revoked {settings.key_id}")


def _changes(settings: KeysUpdateSettings) -> dict[str, int | str | None]:
    """The values given by flags. `default` becomes None: the key has no limit of its own then."""
    named: dict[str, int | Decimal | Literal["default"] | None] = {
        "requests_per_minute": settings.requests_per_minute,
        "tokens_per_minute": settings.tokens_per_minute,
        "concurrent": settings.concurrent,
        "monthly_spend": settings.monthly_spend,
        "priority": settings.priority,
    }
    changes: dict[str, int | str | None] = {}
    for field, value in named.items():
        if value is not None:
            changes[field] = to_nano(value) if isinstance(value, Decimal) else None if value == "default" else value
    return changes if settings.name is None else changes | {"name": settings.name}


def _row(record: KeyRecord) -> tuple[str, ...]:
    limits = record.limits
    spend = None if limits.monthly_spend is None else to_text(limits.monthly_spend).rstrip("0").rstrip(".")
    limits_by_name = {
        "requests/min": limits.requests_per_minute,
        "tokens/min": limits.tokens_per_minute,
        "at once": limits.concurrent,
        "spend/month": spend,
        "priority": limits.priority,
    }
    return (
        record.id,
        f"{record.prefix}…",
        record.owner,
        record.tenant,
        " ".join(record.scopes),
        record.name,
        _time(record.created),
        _time(record.expires),
        _time(record.revoked),
        ", ".join(f"{value} {name}" for name, value in limits_by_name.items() if value is not None),
    )


def _time(seconds: int | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""


def _subcommand(settings: KeysSettings) -> str:
    return type(settings).__name__.removeprefix("Keys").removesuffix("Settings").lower()
