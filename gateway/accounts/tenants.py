"""Tenants in SQL: the organisations that keys belong to, identified by name."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.database import Database
from gateway.storage.tables import tenants


class UnknownTenant(Exception):
    """There is no tenant of this name."""


class TenantExists(Exception):
    """There is a tenant of this name already."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """`title` is a display name; `created` is in seconds since the epoch."""

    name: str
    title: str
    created: int


class Tenants:
    """The tenants of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, title: str = "") -> Tenant:
        """Creates a tenant. Raises TenantExists or DatabaseDown."""
        tenant = Tenant(name, title, int(time.time()))
        try:
            async with self._database.begin() as connection:
                await connection.execute(
                    insert(tenants).values(name=tenant.name, title=tenant.title, created=tenant.created)
                )
        except IntegrityError as error:
            raise TenantExists(f"there is a tenant {name!r} already") from error
        return tenant

    async def list(self, after: str = "", limit: int | None = None) -> list[Tenant]:
        """Tenants ordered by name, starting after `after`."""
        query = select(tenants).where(tenants.c.name > after).order_by(tenants.c.name).limit(limit)
        async with self._database.connect() as connection:
            return [Tenant(row.name, row.title, row.created) for row in await connection.execute(query)]


async def tenant_exists(connection: AsyncConnection, name: str) -> bool:
    return (await connection.execute(select(tenants.c.name).where(tenants.c.name == name))).first() is not None
