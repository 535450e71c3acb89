"""A revoked key ends what waits for it, by one query for all keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.accounts import Accounts, KeyWatch, key_digest
from gateway.storage.database import Database, DatabaseDown


async def test_waiters_return_when_their_key_is_revoked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """All waiters of that key, and none of another key; a cancelled waiter is skipped."""
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.02)
    accounts = Accounts(database)
    ann, bob = [key_digest(await accounts.create(owner, "acme", ["edge"])) for owner in ("ann", "bob")]
    watch = KeyWatch(accounts)
    of_ann = [asyncio.create_task(watch.wait_revoked(ann)) for _ in range(3)]
    of_bob = asyncio.create_task(watch.wait_revoked(bob))
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (*of_ann, of_bob))
    of_ann[2].cancel()
    (record,) = [record for record in await accounts.list() if record.owner == "ann"]
    assert await accounts.revoke(record.id)
    async with asyncio.timeout(60):
        await asyncio.gather(*of_ann[:2])
    assert not of_bob.done()
    of_bob.cancel()
    await asyncio.gather(*of_ann, of_bob, return_exceptions=True)
    again = asyncio.create_task(watch.wait_revoked(ann))  # checking starts again after the last waiter has left
    async with asyncio.timeout(60):
        await again


async def test_keys_count_as_active_while_the_database_is_down(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.accounts.watch.CHECK_SECONDS", 0.02)
    accounts = Accounts(database)
    checks = 0

    async def away(some: Sequence[str]) -> set[str]:
        nonlocal checks
        checks += 1
        if checks < 3:
            raise DatabaseDown("away")
        return set()

    monkeypatch.setattr(accounts, "active_keys", away)
    async with asyncio.timeout(60):
        await KeyWatch(accounts).wait_revoked(key_digest("any"))
    assert checks == 3
