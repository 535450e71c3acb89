"""The writer of the ledger: batches, ends that count once, and ends that cannot be written."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gateway.ledger import Ledger, Prices
from gateway.ledger import writer as writing
from gateway.storage import database as database_module
from gateway.storage.database import Database, DatabaseDown
from gateway.storage.tables import usage
from tests.gateway.ledger.test_ledger import ANN, rows
from tests.support.generation_records import generation_record


async def test_what_cannot_be_written_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(writing, "FLUSH_SECONDS", 0.3)
    database = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    await database.open()
    ledger = Ledger(database, Prices())
    await ledger.open()
    entry = ledger.new_entry(ANN, "req", "toy", "chat", False, 5, 1, time.monotonic())
    await entry.begin()
    async with database.begin() as connection:
        await connection.execute(usage.update().values(stream=True))
        entry.end(generation_record())
        await ledger._writer.close()
    assert '"output_tokens": 7' in caplog.text
    with pytest.raises(DatabaseDown):
        await ledger.new_entry(ANN, "req", "toy", "chat", False, 5, 1, time.monotonic()).begin()
    await ledger.close()
    await database.close()


async def test_an_end_counts_once_and_many_share_a_transaction(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(database, Prices())
    await ledger.open()
    entries = [ledger.new_entry(ANN, "same", "toy", "chat", True, 5, 1, time.monotonic()) for _ in range(300)]
    await asyncio.gather(*(entry.begin() for entry in entries))
    for entry in entries:
        entry.end(generation_record(first_text=0.5))
        entry.end(generation_record("failed", output_tokens=99))
    await ledger.close()
    found = await rows(database)
    assert len(found) == 300
    assert {(row.outcome, row.output_tokens, row.first_token - row.started) for row in found} == {("finished", 7, 500)}
    assert "not written" not in caplog.text
