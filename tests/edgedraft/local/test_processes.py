"""The supervisor with real `edgedraft gateway` processes: readiness, failure, restart, the end of all."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgedraft.local.processes import StartError, Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    env = {"EDGEDRAFT_DATABASE": f"sqlite:///{tmp_path / 'gateway.db'}"}
    with Supervisor("key", log_folder=tmp_path, start_seconds=60, env=env) as supervisor:
        yield supervisor


def test_a_started_process_answers_at_its_address_and_restarts_on_its_port(supervisor: Supervisor) -> None:
    first = supervisor.start_gateway("ws://127.0.0.1:1")
    assert supervisor.url == first.address
    with urllib.request.urlopen(f"{first.address}/healthz", timeout=60) as response:
        assert response.status == 200
    assert first.stop() == 0
    assert supervisor.wait_any_exit() is first
    second = supervisor.restart(first)
    assert supervisor.wait_ready(second) == first.address
    assert urlsplit(second.address).port == urlsplit(first.address).port


def test_a_process_that_ends_before_it_is_ready_is_an_error(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"gateway ended with status 2"):
        supervisor.start("gateway", "--port", "http")
    assert "port" in (tmp_path / "0-gateway.log").read_text()


def test_leaving_the_context_stops_all_processes(tmp_path: Path) -> None:
    with Supervisor("key", log_folder=tmp_path) as supervisor:
        processes = [supervisor.launch("gateway", "--port", "0") for _ in range(2)]
        assert [process.popen.poll() for process in processes] == [None, None]
    assert all(process.popen.poll() is not None for process in processes)
