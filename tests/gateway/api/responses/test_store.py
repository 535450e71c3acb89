"""Stored responses in both databases: chains, owners, and that all of it is bounded."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import func, select, update

from gateway.api.responses import store as store_module
from gateway.api.responses.store import ChainTooLong, NotStored, ResponseStore, StoredResponse, TooLarge
from gateway.storage.database import Database
from gateway.storage.tables import responses

ANN, BOB = ("default", "ann"), ("default", "bob")
DAY = 86400


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return ResponseStore(database, days=30, bytes_per_owner=1 << 20)


def response(name: str, previous: str | None = None, length: int = 1, text: str = "") -> StoredResponse:
    said = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": [{"text": text}]}
    return StoredResponse(name, previous, length, [{"id": f"in_{name}", "text": "naïve \0 漢字"}], {"output": [said]})


async def save_chain(store: ResponseStore, length: int, text: str = "") -> None:
    for n in range(1, length + 1):
        await store.save(ANN, response(f"r{n}", f"r{n - 1}" if n > 1 else None, n, text))


async def age(database: Database, name: str, days: float) -> None:
    async with database.begin() as connection:
        used = int(time.time() - days * DAY)
        await connection.execute(update(responses).where(responses.c.id == name).values(used=used))


async def count(database: Database) -> int:
    async with database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(responses))).scalar_one()


async def test_a_chain_comes_back_in_order(store: ResponseStore) -> None:
    await save_chain(store, 5)
    chain = await store.chain(ANN, "r4")
    assert [link.id for link in chain] == ["r1", "r2", "r3", "r4"]
    assert chain[3] == response("r4", "r3", 4)
    assert [item["id"] for item in chain[0].items] == ["in_r1", "msg_r1"]
    assert await store.get(ANN, "r2") == response("r2", "r1", 2)
    assert set(await store.several(ANN, ["r1", "r5", "r9"])) == {"r1", "r5"}


async def test_owners_do_not_meet(store: ResponseStore) -> None:
    await save_chain(store, 2)
    for owner in (BOB, ("elsewhere", "ann")):
        with pytest.raises(NotStored):
            await store.get(owner, "r1")
        with pytest.raises(NotStored):
            await store.chain(owner, "r2")
        assert await store.delete(owner, "r1") is False
    # Not even by naming another's response as the one before.
    await store.save(BOB, response("b1", "r1", 2))
    with pytest.raises(NotStored, match="r1"):
        await store.chain(BOB, "b1")


async def test_a_chain_with_a_gap_cannot_be_gone_on_from(store: ResponseStore) -> None:
    await save_chain(store, 3)
    assert await store.delete(ANN, "r2") is True
    assert await store.delete(ANN, "r2") is False
    with pytest.raises(NotStored, match="r2"):
        await store.chain(ANN, "r3")
    assert [link.id for link in await store.chain(ANN, "r1")] == ["r1"]


async def test_chains_are_bounded(store: ResponseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_CHAIN", 5)
    await save_chain(store, 5)
    assert len(await store.chain(ANN, "r4")) == 4
    with pytest.raises(ChainTooLong, match="5 responses"):
        await store.chain(ANN, "r5")
    monkeypatch.setattr(store_module, "MAX_CHAIN_BYTES", 300)
    assert len(await store.chain(ANN, "r1")) == 1
    with pytest.raises(ChainTooLong, match="bytes"):
        await store.chain(ANN, "r4")


async def test_a_response_that_is_too_large_is_not_kept(
    store: ResponseStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_RESPONSE_BYTES", 1000)
    with pytest.raises(TooLarge):
        await store.save(ANN, response("r1", text="x" * 1000))
    assert await count(database) == 0


async def test_what_nobody_uses_is_purged(
    store: ResponseStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_AT_ONCE", 2)
    await save_chain(store, 6)
    for n in range(1, 6):
        await age(database, f"r{n}", 31 if n < 5 else 29)
    assert await store.purge() == 4
    assert await count(database) == 2
    assert await store.purge() == 0


async def test_what_is_gone_on_from_stays(store: ResponseStore, database: Database) -> None:
    await save_chain(store, 3)
    await store.save(ANN, response("other"))
    for name in ("r1", "r2", "r3", "other"):
        await age(database, name, 29)
    await store.save(ANN, response("r4", "r3", 4))
    async with database.begin() as connection:
        await connection.execute(update(responses).values(used=responses.c.used - 5 * DAY))
    assert await store.purge() == 1
    assert len(await store.chain(ANN, "r4")) == 4


async def test_an_owner_has_so_many_bytes(database: Database) -> None:
    store = ResponseStore(database, days=30, bytes_per_owner=16_000)
    await store.save(BOB, response("bobs", text="x" * 4000))
    for n in range(40):
        await store.save(ANN, response(f"r{n}", text="x" * 800))
        await age(database, f"r{n}", (40 - n) / 1000)
    async with database.connect() as connection:
        kept = select(responses.c.id, responses.c.size).where(responses.c.owner == "ann").order_by(responses.c.used)
        rows = (await connection.execute(kept)).all()
    assert 14_000 < sum(row.size for row in rows) <= 17_000
    assert [row.id for row in rows] == [f"r{n}" for n in range(40 - len(rows), 40)]
    assert (await store.get(BOB, "bobs")).id == "bobs"
