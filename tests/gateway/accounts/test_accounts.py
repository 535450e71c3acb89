"""Keys and tenants in the database, and the commands that make, list, change and revoke them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from edgedraft import cli
from gateway.accounts import Accounts, KeyLimits, KeyWatch, Principal, TenantExists, Tenants, UnknownTenant
from gateway.accounts import keys as module
from gateway.storage.database import Database, DatabaseDown
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


async def test_many_keys_are_looked_at_in_few_queries(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert await accounts.active_keys([*keys, gone, "static", "nobody's"]) == {*keys[1:], "static"}
    assert queries == 3
    assert await accounts.active_keys([]) == set()


async def test_whoever_watches_a_key_learns_when_it_stops(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All who do, and nobody who watches another; whoever left is not told."""
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.02)
    accounts = Accounts(database)
    ann, bob = [await accounts.create(owner, "acme", ["edge"]) for owner in ("ann", "bob")]
    watch = KeyWatch(accounts)
    of_ann = [asyncio.create_task(watch.wait_revoked(ann)) for _ in range(3)]
    of_bob = asyncio.create_task(watch.wait_revoked(bob))
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (*of_ann, of_bob))
    of_ann[2].cancel()
    (record,) = [record for record in await accounts.list() if record.owner == "ann"]
    assert await accounts.revoke(record.id)
    async with asyncio.timeout(10):
        await asyncio.gather(*of_ann[:2])
    assert not of_bob.done()
    of_bob.cancel()
    await asyncio.gather(*of_ann, of_bob, return_exceptions=True)
    again = asyncio.create_task(
        watch.wait_revoked(ann)
    )  # looking begins anew for whoever comes after the last has left
    async with asyncio.timeout(10):
        await again


async def test_keys_are_taken_to_work_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.02)
    accounts = Accounts(database)
    looks = 0

    async def away(some: Sequence[str]) -> set[str]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise DatabaseDown("away")
        return set()

    monkeypatch.setattr(accounts, "working", away)
    async with asyncio.timeout(10):
        await KeyWatch(accounts).wait_revoked("any")
    assert looks == 3


async def test_a_key_changed_or_revoked_elsewhere_is_known_within_seconds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_SECONDS", 0.2)
    here, there = Database(database_url), Database(database_url)
    await asyncio.gather(here.open(), there.open())
    serving, operating = Accounts(here), Accounts(there)
    key = await operating.create("ann", "acme", ["inference"], limits=KeyLimits(requests_per_minute=5, concurrent=2))

    async def limits_become(limits: KeyLimits | None) -> None:
        async with asyncio.timeout(10):
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


async def test_only_what_may_change_changes(database: Database) -> None:
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


async def test_what_is_remembered_of_keys_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_ENTRIES", 10)
    accounts = Accounts(database)
    for guess in range(35):
        await accounts.find(f"ed-{guess}")
    assert len(accounts._cache) <= 10


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = ["--database", f"sqlite+aiosqlite:///{tmp_path / 'new' / 'keys.db'}"]

    def listed() -> list[str]:
        cli.main(["keys", "list", *database])
        return capsys.readouterr().out.rstrip("\n").split("\t")

    limits = ["--requests-per-minute", "60", "--monthly-spend", "2.50", "--expires", "30"]
    cli.main(["keys", "create", *database, "--owner", "ann", "--scopes", "edge", "--name", "her [laptop]", *limits])
    key = capsys.readouterr().out.strip()
    assert key.startswith("ed-")
    key_id, prefix, owner, tenant, scopes, name, created, expires, revoked, told = listed()
    assert (prefix, owner, tenant, scopes, name) == (f"{key[:10]}…", "ann", "default", "edge", "her [laptop]")
    assert created < expires
    assert (revoked, told) == ("", "60 requests/min, 2.5 spend/month")
    cli.main(["keys", "update", key_id, *database, "--requests-per-minute", "default", "--concurrent", "3"])
    assert key_id in capsys.readouterr().out
    assert listed()[-1] == "3 at once, 2.5 spend/month"
    cli.main(["keys", "revoke", key_id, *database])
    assert key_id in capsys.readouterr().out
    assert listed()[-2]
    for command in ("revoke", "update"):
        with pytest.raises(SystemExit) as end:
            cli.main(["keys", command, key_id, *database])
        assert end.value.code not in (0, None)
    cli.main(["tenants", "create", "acme", *database, "--title", "Acme Inc."])
    cli.main(["tenants", "list", *database])
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["acme", "Acme Inc."],
        ["default", ""],
    ]


async def test_a_stored_key_works_at_the_gateway(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference"])
    async with gateway.http(key) as http:
        assert (await http.get("/v1/models")).status_code == 200
