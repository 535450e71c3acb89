"""Attack: one key sends schemas that take long to compile, so that everybody else's wait, and then hangs up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.server_processes import KEY, ServerUnderTest, running_servers
from tests.support.waiting import until

SLOW = [999983, 999979, 999961, 999959, 999953, 999931, 999917, 999907]  # each takes a worker until it is killed
JOB_SECONDS = 2.0  # of processor time, the limit of one of them


def chat(model: str, schema: dict[str, Any]) -> dict[str, Any]:
    named = {"name": "s", "schema": schema, "strict": True}
    return {
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
        "response_format": {"type": "json_schema", "json_schema": named},
    }


def worker_seconds(gateway: ServerUnderTest) -> float:
    """Processor time of all workers, those that have ended too."""
    used = gateway.process.cpu_times()
    total = used.children_user + used.children_system
    for child in gateway.process.children():
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


async def served_model(http: httpx.AsyncClient) -> str:
    """Waits for the gateway's verifier, which connects after it has started."""
    while True:
        if models := (await http.get("/v1/models")).json()["data"]:
            return models[0]["id"]
        await asyncio.sleep(0.05)


async def seconds_until_idle(gateway: ServerUnderTest) -> float:
    """How much processor time the workers take before they take next to none in half a second."""
    began = worker_seconds(gateway)
    while True:
        before = worker_seconds(gateway)
        await asyncio.sleep(0.5)
        if (after := worker_seconds(gateway)) - before < 0.05:
            return after - began


@pytest.mark.long
async def test_slow_schemas_hold_up_nobody_else_and_end_with_their_client(tmp_path: Path) -> None:
    with running_servers(tmp_path, "--admin-api") as servers:
        gateway = servers["gateway"]
        url = "http://{}:{}".format(*gateway.address)
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as honest,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as hostile,
        ):
            honest.headers["authorization"] = f"Bearer {KEY}"
            new = {"owner": "attacker", "scopes": ["inference"]}
            key = (await honest.post("/admin/v1/keys", json=new)).json()["key"]
            hostile.headers["authorization"] = f"Bearer {key}"
            model = await served_model(honest)
            flood = [
                asyncio.create_task(
                    hostile.post("/v1/chat/completions", json=chat(model, {"type": "integer", "multipleOf": number}))
                )
                for number in SLOW
            ]
            await until(lambda: worker_seconds(gateway) > 1.5, seconds=60)  # the workers have started and compile
            began = time.monotonic()
            answer = await honest.post("/v1/chat/completions", json=chat(model, {"type": "boolean"}))
            waiting = sum(not task.done() for task in flood)
            assert answer.status_code == 200, answer.text
            assert waiting >= len(SLOW) // 2, f"served after {time.monotonic() - began:.1f} s, behind the flood"

            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
            assert await seconds_until_idle(gateway) < 2 * JOB_SECONDS, "what nobody waits for goes on"
        assert "Traceback" not in gateway.log.read_text()
