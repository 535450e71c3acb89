"""Tenants in the database: created, listed, and required by keys."""

from __future__ import annotations

import pytest

from gateway.accounts import Accounts, TenantExists, Tenants, UnknownTenant
from gateway.storage.database import Database


async def test_tenants(database: Database) -> None:
    tenants, accounts = Tenants(database), Accounts(database)
    assert (await tenants.create("acme", "Acme Inc.")).title == "Acme Inc."
    with pytest.raises(TenantExists):
        await tenants.create("acme")
    with pytest.raises(UnknownTenant):
        await accounts.create_with_record("ann", "other", ["edge"])
    await accounts.create("ann", "other", ["edge"])
    assert [tenant.name for tenant in await tenants.list()] == ["acme", "default", "other"]
    assert [tenant.name for tenant in await tenants.list(after="acme", limit=1)] == ["default"]
