"""A real Valkey server for tests, which can be stopped and started again on its port, with nothing kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from edgedraft.local.valkey import Valkey


class ValkeyServer(Valkey):
    """With a client of its own; `stop` is sudden, as when a machine fails."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Redis.from_url(self.url)

    def stop(self) -> None:
        self.kill()


@pytest.fixture(scope="session")
def valkey_process() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_process: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> ValkeyServer:
    """Running and empty. Who asks it waits for longer than the gateway's second: a busy machine is no failure."""
    monkeypatch.setattr("gateway.storage.shared_store.TIMEOUT_SECONDS", 20.0)
    if valkey_process.process is None:
        valkey_process.start()
    valkey_process.client.flushall()
    return valkey_process
