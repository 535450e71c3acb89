"""Keys in the database: found, listed, changed, revoked, cached."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.accounts import Accounts, KeyLimits, Principal, key_digest
from gateway.accounts import keys as module
from gateway.storage.database import Database
from tests.gateway.conftest import Gateway


async def test_a_key_stands_for_its_principal(database: Database) -> None:
    accounts = Accounts(database)
    limits = KeyLimits(60, 1000, None, 2**62, 3)
    key = await accounts.create("ann", "acme", ["inference", "edge", "edge"], "laptop", limits)
    assert key.startswith("ed-")
    assert len(key) == 3 + 43
    (record,) = await accounts.list()
    assert await accounts.find(key) == Principal(record.id, "ann", "acme", frozenset({"inference", "edge"}), limits)
    assert (record.prefix, record.name, record.revoked, record.limits) == (key[:10], "laptop", None, limits)
    assert await accounts.get(record.id) == record
    assert await accounts.find(key + "x") is None
    assert await accounts.find("") is None


async def test_a_key_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "keys.db"
    database = Database(f"sqlite+aiosqlite:///{path}")
    await database.open()
    key = await Accounts(database).create("ann", "acme", ["inference"])
    await database.close()
    dump = "\n".join(sqlite3.connect(path).iterdump())
    assert key not in dump
    assert key[:10] in dump


async def test_a_static_key_has_every_scope(database: Database) -> None:
    accounts = Accounts(database, "static")
    principal = await accounts.find("static")
    assert principal == Principal("static", "default", "default", frozenset({"inference", "edge", "admin"}))
    assert await accounts.find("statik") is None


async def test_a_key_stops_at_its_expiry(database: Database) -> None:
    accounts = Accounts(database)
    assert await accounts.find(await accounts.create("ann", "acme", ["edge"], expires=int(time.time()) + 60))
    assert not await accounts.find(await accounts.create("ann", "acme", ["edge"], expires=int(time.time())))


async def test_many_keys_are_checked_in_few_queries(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEYS_PER_QUERY", 3)
    accounts = Accounts(database, "static")
    keys = [await accounts.create(f"owner {number}", "acme", ["edge"]) for number in range(7)]
    gone = await accounts.create("gone", "acme", ["edge"], expires=int(time.time()))
    (first,) = [record for record in await accounts.list() if record.owner == "owner 0"]
    assert await accounts.revoke(first.id)
    queries = 0
    connect = database.connect

    def counted() -> AbstractAsyncContextManager[AsyncConnection]:
        nonlocal queries
        queries += 1
        return connect()

    monkeypatch.setattr(database, "connect", counted)
    candidates = [*keys, gone, "static", "nobody's"]
    active = {key_digest(key) for key in [*keys[1:], "static"]}
    assert await accounts.active_keys([key_digest(key) for key in candidates]) == active
    assert queries == 3
    assert await accounts.active_keys([]) == set()


async def test_a_key_changed_or_revoked_elsewhere_is_known_within_seconds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_SECONDS", 0.2)
    here, there = Database(database_url), Database(database_url)
    await asyncio.gather(here.open(), there.open())
    serving, operating = Accounts(here), Accounts(there)
    key = await operating.create("ann", "acme", ["inference"], limits=KeyLimits(requests_per_minute=5, concurrent=2))

    async def limits_become(limits: KeyLimits | None) -> None:
        async with asyncio.timeout(60):
            while True:
                found = await serving.find(key)
                if (found.limits if found else None) == limits:
                    return
                await asyncio.sleep(0.05)

    await limits_become(KeyLimits(requests_per_minute=5, concurrent=2))
    (record,) = await operating.list()
    assert await operating.update(record.id, {"requests_per_minute": 7, "concurrent": None, "name": "new"})
    await limits_become(KeyLimits(requests_per_minute=7))
    assert await operating.revoke(record.id)
    assert not await operating.revoke(record.id)
    assert not await operating.update(record.id, {"concurrent": 1})
    assert await operating.find(key) is None
    await limits_become(None)
    await asyncio.gather(here.close(), there.close())


async def test_only_changeable_fields_change(database: Database) -> None:
    accounts = Accounts(database)
    await accounts.create("ann", "acme", ["edge"])
    (record,) = await accounts.list()
    with pytest.raises(ValueError, match="tenant"):
        await accounts.update(record.id, {"tenant": "other"})
    assert await accounts.update(record.id, {})
    assert await accounts.list() == [record]


async def test_lists_come_in_pages(database: Database) -> None:
    accounts = Accounts(database)
    for number in range(7):
        await accounts.create("ann", "acme" if number % 2 else "other", ["edge"])
    everything = await accounts.list()
    assert len(everything) == 7
    pages, after = [], ""
    while page := await accounts.list(after=after, limit=3):
        pages.append(len(page))
        assert page == everything[sum(pages) - len(page) : sum(pages)]
        after = page[-1].id
    assert pages == [3, 3, 1]
    assert {record.tenant for record in await accounts.list(tenant="acme")} == {"acme"}
    assert len(await accounts.list(tenant="acme")) == 3


async def test_the_key_cache_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_ENTRIES", 10)
    accounts = Accounts(database)
    for candidate in range(35):
        await accounts.find(f"ed-{candidate}")
    assert len(accounts._cache) <= 10


async def test_a_stored_key_works_at_the_gateway(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference"])
    async with gateway.http(key) as http:
        assert (await http.get("/v1/models")).status_code == 200
