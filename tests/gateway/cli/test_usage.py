"""`edgedraft usage` on a database file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedraft import cli
from gateway.storage.database import Database
from tests.gateway.ledger.test_report import filled


async def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    database = Database(url)
    await database.open()
    key_id = await filled(database)
    await database.close()

    def run(*words: str) -> str:
        import threading

        # The command has an event loop of its own.
        thread = threading.Thread(target=cli.main, args=(["usage", "--database", url, *words],))
        thread.start()
        thread.join()
        return capsys.readouterr().out

    document = json.loads(run("--by", "day", "--format", "json", "--from", "2024-10-05", "--to", "2024-10-05"))
    assert document["currency"] == "USD"
    (line,) = document["data"]
    assert (line["day"], line["requests"], line["cost"], line["verifier_seconds"]) == (
        "2024-10-05",
        2,
        "0.000000004",
        "1.000000000",
    )
    header, first, *_ = run("--by", "key", "--format", "csv").splitlines()
    assert header.startswith("tenant,key_id,requests,")
    assert first.startswith(f"acme,{key_id},2,")
    assert "… laptop\t2\t2\t20\t10\t8\t" in run()
    assert run("--by", "day", "--from", "2030-01-01", "--format", "csv") == ""
