"""`edgedraft keys` and `edgedraft tenants` on a database file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedraft import cli


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = ["--database", f"sqlite+aiosqlite:///{tmp_path / 'new' / 'keys.db'}"]

    def listed() -> list[str]:
        cli.main(["keys", "list", *database])
        return capsys.readouterr().out.rstrip("\n").split("\t")

    limits = ["--requests-per-minute", "60", "--monthly-spend", "2.50", "--expires", "30"]
    cli.main(["keys", "create", *database, "--owner", "ann", "--scopes", "edge", "--name", "her [laptop]", *limits])
    key = capsys.readouterr().out.strip()
    assert key.startswith("ed-")
    key_id, prefix, owner, tenant, scopes, name, created, expires, revoked, limits = listed()
    assert (prefix, owner, tenant, scopes, name) == (f"{key[:10]}…", "ann", "default", "edge", "her [laptop]")
    assert created < expires
    assert (revoked, limits) == ("", "60 requests/min, 2.5 spend/month")
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
