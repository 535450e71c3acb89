"""`edgedraft tenants create|list`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from gateway.accounts import TenantExists, Tenants
from gateway.cli.database import run_with_database
from gateway.cli.tables import print_table
from gateway.settings import TenantsCreateSettings, TenantsListSettings


def main(settings: TenantsCreateSettings | TenantsListSettings) -> None:
    """Runs one of the two commands. Exits with 1 and a line on stderr if the tenant exists already."""
    word = "create" if isinstance(settings, TenantsCreateSettings) else "list"
    run_with_database(
        settings.database, lambda database: _run(settings, Tenants(database)), f"edgedraft tenants {word}"
    )


async def _run(settings: TenantsCreateSettings | TenantsListSettings, tenants: Tenants) -> None:
    if isinstance(settings, TenantsListSettings):
        rows = [
            (tenant.name, tenant.title, datetime.fromtimestamp(tenant.created, UTC).strftime("%Y-%m-%d %H:%M"))
            for tenant in await tenants.list()
        ]
        print_table(("tenant", "title", "created"), rows)
        return
    try:
        print((await tenants.create(settings.tenant, settings.title)).name)
    except TenantExists as error:
        sys.exit(f"edgedraft tenants create: {error}")
