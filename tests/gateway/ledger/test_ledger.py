"""The usage ledger at a serving gateway: one row per request, written before its first token, completed once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, text

from edgedraft.wire import Commit
from gateway.accounts import Principal
from gateway.ledger import Ledger, Prices
from gateway.records.speculation_stats import SpeculationStats
from gateway.storage import database as database_module
from gateway.storage.database import Database
from gateway.storage.tables import gateways, usage
from tests.gateway.api.test_chat import user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.generation_records import generation_record
from tests.support.scripted_verifier import ScriptedVerifier


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits for a lock no longer than this."""
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.2)


ANN = Principal("key_1", "ann", "acme", frozenset({"inference"}))
BABBLE: dict[str, Any] = {"model": "toy", "messages": user("babble"), "max_tokens": 1500}


async def rows(database: Database) -> list[Any]:
    async with database.connect() as connection:
        return list(await connection.execute(select(usage).order_by(usage.c.started, usage.c.id)))


async def ended(database: Database, count: int = 1, seconds: float = 10) -> list[Any]:
    """The rows, once there are so many and none runs."""
    async with asyncio.timeout(seconds):
        while True:
            found = await rows(database)
            if len(found) >= count and all(row.outcome != "running" for row in found):
                assert len(found) == count
                return found
            await asyncio.sleep(0.02)


@pytest.fixture
async def serving(database_url: str, tmp_path: Path, verifier: ScriptedVerifier) -> AsyncIterator[Gateway]:
    """A gateway on each kind of database."""
    async with running_gateway(tmp_path, verifier, database=database_url) as gateway:
        yield gateway


async def ask(gateway: Gateway, key: str = KEY, **body: Any) -> httpx.Response:
    async with gateway.http(key) as http:
        return await http.post("/v1/chat/completions", json={"model": "toy", "messages": user("say hello")} | body)


async def test_a_request_is_one_row(serving: Gateway, verifier: ScriptedVerifier) -> None:
    key = await serving.accounts.create("ann", "acme", ["inference"])
    response = await ask(serving, key, stream=True, n=2)
    assert response.text.endswith("data: [DONE]\n\n")
    (row,) = await ended(serving.state.database)
    (record,) = await serving.accounts.list()
    recorded = (
        row.key_id,
        row.owner,
        row.tenant,
        row.model,
        row.endpoint,
        row.stream,
        row.choices,
        row.outcome,
        row.mode,
    )
    assert recorded == (record.id, "ann", "acme", "toy", "chat", True, 2, "finished", "datacenter")
    assert row.request_id == response.headers["x-request-id"]
    assert row.output_tokens == 2 * len("hello") + 2
    assert row.started <= row.first_token <= row.ended
    # Datacenter-only, so what it would have cost is what it cost: a millisecond a step.
    assert row.verifier_ns == row.baseline_ns == sum(round(c.seconds * 1e9) for c in verifier.commits)
    assert row.verifier_cost == row.baseline_cost == Prices().datacenter_cost(row.verifier_ns) > 0
    assert (row.agent, row.agent_ns, row.edge_cost, row.credit) == (None, None, 0, 0)
    assert row.agent_device is None


async def test_tokens_of_an_agent_are_recorded_and_credited(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "acme", ["inference", "edge"])
    async with gateway.agent(key, device="llama-server"):
        body = (await ask(gateway, key, messages=user("babble"), max_tokens=40, seed=1)).json()
    (row,) = await ended(gateway.state.database)
    made = body["edgedraft"]
    assert (row.mode, row.drafted, row.accepted) == (made["mode"], made["drafted"], made["accepted"])
    assert row.accepted > 0
    assert row.credit == Prices().credit(row.accepted)
    assert (row.agent_tenant, row.agent_owner, row.agent_device) == ("acme", "ann", "llama-server")
    assert row.agent
    assert 0 < row.agent_ns < 10**10
    assert row.edge_cost == Prices().edge_cost(row.agent_ns)
    # As many plain steps as tokens, of a millisecond each: more than was spent.
    assert row.baseline_ns == 40 * 10**6 > row.verifier_ns


async def test_the_row_is_there_before_the_first_token(serving: Gateway) -> None:
    async with (
        serving.http() as http,
        http.stream("POST", "/v1/chat/completions", json=BABBLE | {"stream": True}) as response,
    ):
        await anext(response.aiter_lines())
        (row,) = await rows(serving.state.database)
        assert (row.outcome, row.ended, row.output_tokens) == ("running", None, None)
        assert row.prompt_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnected_client_pays_for_tokens_so_far(
    gateway: Gateway, verifier: ScriptedVerifier, stream: bool
) -> None:
    verifier.step = 0.01
    with contextlib.suppress(httpx.ReadTimeout, TimeoutError):
        async with asyncio.timeout(0.7):
            await ask(gateway, **BABBLE, stream=stream)
    (row,) = await ended(gateway.state.database)
    assert row.outcome == "cancelled"
    assert 0 < row.output_tokens < 1500
    assert row.verifier_cost > 0


async def test_a_verifier_that_fails(tmp_path: Path) -> None:
    async with (
        ScriptedVerifier(refuse="refused") as verifier,
        running_gateway(tmp_path, verifier, silence_timeout=0.5, open_timeout=0.5) as gateway,
    ):
        assert (await ask(gateway)).status_code == 400
        verifier.refuse = ""
        verifier.silent_at = 3
        response = await ask(gateway, **BABBLE, stream=True)
        assert "verifier_unavailable" in response.text
        refused, failed = await ended(gateway.state.database, 2)
    assert (refused.outcome, refused.output_tokens, refused.verifier_cost) == ("refused", 0, 0)
    assert (failed.outcome, failed.output_tokens) == ("failed", 3)


async def test_a_rejected_request_has_no_row(gateway: Gateway) -> None:
    wrong: list[dict[str, Any]] = [{"model": "other"}, {"max_tokens": 0}, {"messages": []}]
    for body in wrong:
        assert (await ask(gateway, **body)).status_code in (400, 404)
    assert await rows(gateway.state.database) == []


async def test_without_its_database_the_gateway_starts_no_request(
    impatient: None, gateway: Gateway, verifier: ScriptedVerifier
) -> None:
    """A real lock: another connection holds the database for longer than writers wait."""
    async with gateway.state.database.begin() as connection:
        await connection.execute(text("UPDATE tenants SET title = title"))
        response = await ask(gateway)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "database_unavailable"
        assert "retry-after" in response.headers
        assert verifier.opened == []
    for _ in range(100):  # and all is well again
        if (await ask(gateway)).status_code == 200:
            break
        await asyncio.sleep(0.1)
    (row,) = await ended(gateway.state.database)
    assert row.outcome == "finished"


async def test_an_end_is_written_when_the_database_is_back(
    impatient: None, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    database = gateway.state.database
    async with gateway.http() as http:
        body = BABBLE | {"stream": True, "max_tokens": 60}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.aiter_lines()
            await anext(lines)
            async with database.begin() as connection:
                await connection.execute(text("UPDATE tenants SET title = title"))
                rest = [line async for line in lines if line]  # the stream does not wait for the ledger
                await asyncio.sleep(0.5)
            assert rest[-1] == "data: [DONE]"
    (row,) = await ended(database)
    assert (row.outcome, row.output_tokens) == ("finished", 60)
    assert "ledger not written" in caplog.text


async def test_rows_of_a_lost_gateway_are_marked_and_its_own_end_still_counts(database: Database) -> None:
    lost = Ledger(database, Prices(), lease_seconds=60)
    await lost.open()
    entry = lost.new_entry(ANN, "req", "toy", "chat", True, 5, 1, time.monotonic())
    await entry.begin()
    other = Ledger(database, Prices(), lease_seconds=60)
    await other.open()
    assert (await rows(database))[0].outcome == "running"  # its lease has not ended
    async with database.begin() as connection:
        await connection.execute(gateways.update().where(gateways.c.id == lost._gateway).values(seen=1))
    await other._renew()
    assert (await rows(database))[0].outcome == "unfinished"
    entry.end(generation_record())  # it had only slept
    await lost.close()
    await other.close()
    (row,) = await rows(database)
    assert (row.outcome, row.output_tokens) == ("finished", 7)


async def test_spend_is_this_months_and_grows_with_what_ends(database: Database) -> None:
    ledger = Ledger(database, Prices())
    await ledger.open()
    old = dict.fromkeys(("request_id", "owner", "tenant", "model", "endpoint"), "x")
    common = old | {"gateway": "g", "outcome": "finished", "stream": False, "prompt_tokens": 1, "choices": 1}
    async with database.begin() as connection:
        await connection.execute(
            insert(usage).values(**common, id="a", key_id=ANN.key_id, started=1_000_000, verifier_cost=10**12)
        )
    assert await ledger.month_spend(ANN.key_id) == 0
    stats = SpeculationStats()
    stats.add(Commit(1, 0, [1], seconds=3600.0), paired=False)
    entry = ledger.new_entry(ANN, "req", "toy", "chat", True, 5, 1, time.monotonic())
    await entry.begin()
    entry.end(generation_record(stats=[stats], output_tokens=1))
    assert await ledger.month_spend(ANN.key_id) == Prices().datacenter_gpu_hour
    await ledger.close()
    again = Ledger(database, Prices())
    assert await again.month_spend(ANN.key_id) == Prices().datacenter_gpu_hour
    assert await again.month_spend("key_2") == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_gateway_that_stops_during_a_stream(
    database_url: str, verifier: ScriptedVerifier, how: signal.Signals
) -> None:
    """A real process. After SIGKILL the next gateway marks its row; after SIGTERM it completes the row itself."""
    verifier.step = 0.02
    command = ["-m", "edgedraft.cli", "gateway", "--port", "0", "--verifier", verifier.url, "--key", KEY]
    command += ["--drain-grace", "0.2"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        "--database",
        database_url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout
    url = (await process.stdout.readline()).decode().split()[-1]
    with contextlib.suppress(httpx.HTTPError):
        async with (
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as http,
            http.stream("POST", "/v1/chat/completions", json=BABBLE | {"stream": True}, timeout=30) as response,
        ):
            lines = response.aiter_lines()
            for _ in range(9):
                await anext(lines)
            os.kill(process.pid, how)
            async for _ in lines:
                pass
    await process.wait()
    database = Database(database_url)
    (row,) = await rows(database)
    if how == signal.SIGTERM:
        assert row.outcome == "cancelled"
        assert row.output_tokens > 0
    else:
        assert (row.outcome, row.output_tokens) == ("running", None)
        ledger = Ledger(database, Prices(), lease_seconds=0.2)  # the one that comes after it, a lease later
        await asyncio.sleep(0.3)
        await ledger.open()
        (row,) = await rows(database)
        assert row.outcome == "unfinished"
        assert row.verifier_cost > 0, "no verifier reports what it cost"
        assert row.estimated
        await ledger.close()
    await database.close()
