"""`edgedraft db upgrade`."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedraft import cli
from gateway.storage.migrations import HEAD


def test_the_command_upgrades(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    if database_url.startswith("postgresql"):
        with pytest.raises(SystemExit) as end:  # an embedded one follows its program; a shared one is asked first
            cli.main(["keys", "list", "--database", database_url])
        assert "edgedraft db upgrade" in str(end.value.code)
    cli.main(["db", "upgrade", "--database", database_url])
    assert HEAD in capsys.readouterr().out
    cli.main(["keys", "list", "--database", database_url])
    cli.main(["db", "upgrade", "--database", database_url])


def test_the_command_reports_an_unreachable_database(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["db", "upgrade", "--database", "postgresql://nobody@127.0.0.1:1/none"])
    assert "cannot be reached" in str(end.value.code)
