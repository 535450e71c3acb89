"""Keys in the database, and the commands that make, list and revoke them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from edgedraft import cli
from gateway import accounts as module
from gateway.accounts import Accounts, Principal
from tests.gateway.conftest import Gateway


async def test_a_key_stands_for_its_principal_and_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "keys.db"
    accounts = Accounts(f"sqlite+aiosqlite:///{path}")
    await accounts.open()
    key = await accounts.create("ann", "acme", ["inference", "edge"], "laptop")
    assert key.startswith("ed-")
    assert len(key) == 3 + 43
    (record,) = await accounts.list()
    assert await accounts.find(key) == Principal(record.id, "ann", "acme", frozenset({"inference", "edge"}))
    assert (record.prefix, record.name, record.revoked) == (key[:10], "laptop", None)
    assert await accounts.find(key + "x") is None
    assert await accounts.find("") is None
    await accounts.close()
    dump = "\n".join(sqlite3.connect(path).iterdump())
    assert key not in dump
    assert key[:10] in dump


async def test_a_static_key_has_every_scope(tmp_path: Path) -> None:
    accounts = Accounts(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}", "static")
    await accounts.open()
    principal = await accounts.find("static")
    assert principal == Principal("static", "default", "default", frozenset({"inference", "edge", "admin"}))
    assert await accounts.find("statik") is None
    await accounts.close()


async def test_a_key_revoked_elsewhere_stops_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SECONDS", 0.2)
    url = f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}"
    serving, operating = Accounts(url), Accounts(url)
    await asyncio.gather(serving.open(), operating.open())
    key = await operating.create("ann", "acme", ["inference"])
    assert await serving.find(key)
    (record,) = await operating.list()
    assert await operating.revoke(record.id)
    assert not await operating.revoke(record.id)
    assert await operating.find(key) is None
    assert await serving.find(key)
    await asyncio.sleep(0.25)
    assert await serving.find(key) is None
    await serving.close()
    await operating.close()


async def test_what_is_remembered_of_keys_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_ENTRIES", 10)
    accounts = Accounts(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")
    await accounts.open()
    for guess in range(35):
        await accounts.find(f"ed-{guess}")
    assert len(accounts._cache) <= 10
    await accounts.close()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = ["--database", f"sqlite+aiosqlite:///{tmp_path / 'new' / 'keys.db'}"]
    cli.main(["keys", "create", *database, "--owner", "ann", "--scopes", "edge", "--name", "her [laptop]"])
    key = capsys.readouterr().out.strip()
    assert key.startswith("ed-")
    cli.main(["keys", "list", *database])
    key_id, prefix, owner, tenant, scopes, name, created, revoked = capsys.readouterr().out.rstrip("\n").split("\t")
    assert (prefix, owner, tenant, scopes, name, revoked) == (
        f"{key[:10]}…",
        "ann",
        "default",
        "edge",
        "her [laptop]",
        "",
    )
    assert created
    cli.main(["keys", "revoke", key_id, *database])
    assert key_id in capsys.readouterr().out
    cli.main(["keys", "list", *database])
    assert capsys.readouterr().out.rstrip("\n").split("\t")[-1]
    with pytest.raises(SystemExit) as end:
        cli.main(["keys", "revoke", key_id, *database])
    assert end.value.code not in (0, None)


async def test_a_stored_key_works_at_the_gateway(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference"])
    async with gateway.http(key) as http:
        assert (await http.get("/v1/models")).status_code == 200
