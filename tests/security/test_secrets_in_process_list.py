"""Attack: another user of the machine reads command lines (ps, /proc/PID/cmdline) for keys, tokens and passwords."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from edgedraft.child_process import minimal_environment, program_environment
from edgedraft.grammar.service import GrammarService
from edgedraft.local.fleet import Fleet, replica_environment
from edgedraft.local.processes import Supervisor
from edgedraft.local.valkey import Valkey
from edgedraft.workers.pool import JobOwner
from tests.gateway.conftest import valkey_process
from tests.support.valkey_server import ValkeyServer

__all__ = ["valkey_process"]  # a fixture

KEY = "ed-nobody-may-read-this"


def test_what_up_starts_has_no_secret_in_its_command_line(tmp_path: Path) -> None:
    env = replica_environment("redis://:hidden-password@127.0.0.1:1/0", f"sqlite:///{tmp_path}/gateway.db")
    with Supervisor(KEY, tmp_path, start_seconds=60, env=env) as stack:
        verifier = stack.launch_verifier("--port", "0", "--model", str(tmp_path))
        gateway = stack.start_gateway("ws://127.0.0.1:1")
        Fleet(stack, gateways=[gateway]).supervisor.launch("attach", gateway.address, "--draft-model", "none")
        seen = {child.arguments[0]: psutil.Process(child.popen.pid) for child in stack.processes}
        secrets = (KEY, stack.verifier_token, "hidden-password", env["EDGEDRAFT_REPLICA_SECRET"])
        assert not [word for process in seen.values() for word in process.cmdline() if any(s in word for s in secrets)]
        if verifier.popen.poll() is None:
            assert seen["verifier"].environ()["EDGEDRAFT_VERIFIER_TOKEN"] == stack.verifier_token
            assert "EDGEDRAFT_KEY" not in seen["verifier"].environ()
        assert seen["gateway"].environ()["EDGEDRAFT_KEY"] == KEY
        assert {"EDGEDRAFT_REPLICA_SECRET", "EDGEDRAFT_VERIFIER_TOKEN"} & set(seen["attach"].environ()) == set()


def test_every_verifier_that_is_started_has_a_token() -> None:
    first, second = Supervisor(KEY), Supervisor(KEY)
    assert len(first.verifier_token) >= 24
    assert first.verifier_token != second.verifier_token


def test_the_local_valkey_asks_for_a_password_that_no_command_line_shows(valkey_process: ValkeyServer) -> None:
    if valkey_process.process is None:
        valkey_process.start()
    with pytest.raises(AuthenticationError):
        Redis(port=valkey_process.port).ping()
    password = valkey_process.url.split(":")[2].split("@")[0]
    assert valkey_process.process
    assert not [word for word in psutil.Process(valkey_process.process.pid).cmdline() if password in word]
    assert Valkey().url != valkey_process.url


def test_each_program_gets_its_own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"KEY": "k", "VERIFIER_TOKEN": "t", "REPLICA_SECRET": "r", "DATABASE": "d", "REDIS": "p"}
    for name, value in secrets.items():
        monkeypatch.setenv(f"EDGEDRAFT_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")

    def given(environment: dict[str, str]) -> set[str]:
        return {name for name in secrets if f"EDGEDRAFT_{name}" in environment}

    assert given(program_environment("gateway")) == set(secrets)
    assert given(program_environment("verifier")) == {"VERIFIER_TOKEN"}
    assert given(program_environment("attach")) == {"KEY"}
    assert given(minimal_environment()) == set()
    assert "AWS_SECRET_ACCESS_KEY" not in minimal_environment()
    assert "PATH" in minimal_environment()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_grammar_worker_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDRAFT_KEY", KEY)
    others = set(psutil.Process().children())  # of other tests
    service = GrammarService()
    try:
        assert await service.find_error('start: "a"', JobOwner("somebody")) == ""
        new = set(psutil.Process().children()) - others
        workers = [process for process in new if "edgedraft.grammar.worker" in process.cmdline()]
        assert workers
        assert not [worker for worker in workers if "EDGEDRAFT_KEY" in worker.environ()]
    finally:
        service.close()
