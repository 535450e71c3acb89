"""Attack: one key sends many bodies and finishes none, so that they fill the gateway's memory or lock others out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.server_processes import KEY, ServerUnderTest, running_servers
from tests.support.waiting import until

BODY = 7 << 20
BODIES = 40  # 280 MiB, of which the gateway takes 32
ROOM = 32 << 20


async def begin_body(server: ServerUnderTest, key: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*server.address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {BODY + 1}"
    writer.write(head.encode() + b"\r\n\r\n" + b"x" * BODY)
    return reader, writer


@pytest.mark.long
async def test_one_keys_unfinished_bodies_are_bounded_and_make_room(tmp_path: Path) -> None:
    with running_servers(tmp_path, "--body-megabytes", str(ROOM >> 20), "--admin-api") as servers:
        gateway = servers["gateway"]
        url = "http://{}:{}".format(*gateway.address)
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            http.headers["authorization"] = f"Bearer {KEY}"
            new = {"owner": "attacker", "scopes": ["inference"]}
            attacker = (await http.post("/admin/v1/keys", json=new)).json()["key"]
            async with asyncio.timeout(60):
                while not (models := (await http.get("/v1/models")).json()["data"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # a worker of the gateway loads the tokenizer first
            model = models[0]["id"]
            before = gateway.memory()
            connections = [await begin_body(gateway, attacker) for _ in range(BODIES)]
            answers = [asyncio.create_task(reader.readline()) for reader, _ in connections]
            await until(lambda: sum(task.done() for task in answers) >= BODIES - ROOM // BODY, seconds=30)
            done = [task.result() for task in answers if task.done()]
            assert all(b"429" in line for line in done)
            assert gateway.memory() - before < 3 * ROOM + (64 << 20)
            # Four bodies of 7 MiB wait still. Another key's large body gets its share all the same.
            chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "user": "u"}
            padded = httpx.Request("POST", url, json=chat).content + b" " * (6 << 20)
            answer = await http.post("/v1/chat/completions", content=padded)
            assert answer.status_code == 200, answer.text
            for task in answers:
                task.cancel()
            for _, writer in connections:
                writer.transport.abort()
        assert "Traceback" not in gateway.log.read_text()
