"""A gateway that is killed while verifiers compute for it: its rows get that time from the gateway that comes next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger import Ledger
from tests.gateway.conftest import KEY, running_gateway
from tests.security.test_unpaid_work import LIMITS, LONG, SHORT, Around, SlowEngine
from tests.support import toy_model
from tests.support.waiting import until
from tests.verifier.running_server import RunningVerifier, running


@asynccontextmanager
async def gateway_process(verifier: RunningVerifier, database: str) -> AsyncIterator[tuple[int, httpx.AsyncClient]]:
    """Its process id, and a client of it."""
    command = ["-m", "edgedraft.cli", "gateway", "--port", "0", "--verifier", verifier.url, "--key", KEY]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        "--database",
        database,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout
        url = (await process.stdout.readline()).decode().split()[-1]
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as http:
            yield process.pid, http
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def stream(http: httpx.AsyncClient, messages: Any, texts: list[str]) -> None:
    body = {"model": "toy", "messages": messages, "max_tokens": 500, "ignore_eos": True, "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if "content" in line:
                texts.append(line)


async def test_a_killed_gateways_requests_are_billed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-stream, in a prompt, and one that has ended and is in the ledger."""
    engine, texts = SlowEngine(), list[str]()
    with running(engine, LIMITS, toy_model.card(), 8) as verifier:
        async with gateway_process(verifier, database_url) as (pid, http):
            body = {"model": "toy", "messages": SHORT, "max_tokens": 3}
            assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            opened = engine.opened
            asking = [asyncio.create_task(stream(http, SHORT, texts)) for _ in range(2)]
            await until(lambda: len(texts) > 6 and engine.opened == opened + 2)
            asking.append(asyncio.create_task(stream(http, LONG, [])))
            await until(lambda: engine.opened == opened + 3)
            os.kill(pid, signal.SIGKILL)
            await asyncio.gather(*asking, return_exceptions=True)
        # The lease of the one that was killed is taken for expired at once.
        monkeypatch.setattr("gateway.app.Ledger", partial(Ledger, lease_seconds=0.5))
        await asyncio.sleep(0.6)
        async with running_gateway(tmp_path, verifier, database=database_url) as gateway:  # type: ignore[arg-type]
            here = Around(engine, verifier, gateway)
            await here.until_all_is_billed(60)
            outcomes = sorted((row.outcome, row.verifier_ns > 0, row.verifier_cost > 0) for row in await here.rows())
            assert outcomes == [("finished", True, True)] + [("unfinished", True, True)] * 3
