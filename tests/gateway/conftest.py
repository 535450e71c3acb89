"""A gateway on a real socket, in the test's own event loop, with one scripted verifier."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from starlette.datastructures import State

from edgedraft.observability.tracing import Tracing
from edgedraft.serving.server import server_config
from edgedraft.wire import MAX_AGENT_FRAME
from gateway.accounts import Accounts
from gateway.app import build_app
from gateway.model.prompt_workers import PromptWorkers
from gateway.settings import GatewaySettings
from tests.support.databases import database, database_url, postgres_server
from tests.support.scripted_agent import ScriptedAgent
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.valkey_server import valkey, valkey_process
from tests.support.waiting import until

KEY = "ed-static-test-key"


@cache
def shared_prompt_workers() -> PromptWorkers:
    """One pool for all gateways of the tests: a process takes half a second to start."""
    workers = PromptWorkers()
    atexit.register(workers.close)
    return workers


__all__ = ["database", "database_url", "postgres_server", "valkey", "valkey_process"]  # fixtures


class _Server(uvicorn.Server):
    """Leaves the process's signals to pytest, and ends without its polite pauses (test_process.py has those)."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await until(lambda: self.should_exit, seconds=300)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.lifespan.shutdown()


@dataclass
class Gateway:
    """A running gateway, and clients of it."""

    url: str
    state: State  # app.state, which has the app's parts by name

    def http(self, key: str = KEY) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=60,
            trust_env=False,
            verify=False,
        )

    def openai(self, key: str = KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
        )

    def agent(self, key: str = KEY, **options: Any) -> ScriptedAgent:
        return ScriptedAgent(self.url, key, **options)

    @property
    def accounts(self) -> Accounts:
        return self.state.accounts


@contextlib.asynccontextmanager
async def running_gateway(
    folder: Path,
    *verifiers: ScriptedVerifier,
    small_buffers: bool = False,
    tracing: Tracing | None = None,
    ping_seconds: float = 20.0,
    prompts: PromptWorkers | None = None,
    **options: Any,
) -> AsyncIterator[Gateway]:
    """Serve with these verifiers and workers; `options` are settings."""
    values: dict[str, Any] = {
        "verifier": [verifier.url for verifier in verifiers],
        "key": KEY,
        "database": f"sqlite+aiosqlite:///{folder / 'accounts' / 'gateway.db'}",
        "open_timeout": 2.0,
        "silence_timeout": 2.0,
    }
    settings = GatewaySettings(**values | options)
    app = build_app(settings, tracing, prompts or shared_prompt_workers())
    listener = socket.create_server(("127.0.0.1", 0))
    if small_buffers:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    server = _Server(server_config(app, MAX_AGENT_FRAME, ping_seconds, 1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    state = app.state
    await until(lambda: server.started)
    if verifiers:
        await until(lambda: state.metrics.verifiers._value.get() == len(verifiers))
    try:
        yield Gateway(f"http://127.0.0.1:{listener.getsockname()[1]}", state)
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def verifier() -> AsyncIterator[ScriptedVerifier]:
    async with ScriptedVerifier() as verifier:
        yield verifier


@pytest.fixture
async def gateway(tmp_path: Path, verifier: ScriptedVerifier) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path, verifier) as gateway:
        yield gateway
