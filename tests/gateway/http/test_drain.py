"""A gateway that shuts down: new requests are refused, running ones finished, agents asked to move."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from edgedraft import wire
from gateway.agents.link import AgentLink
from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": 120, "seed": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.agents.registry.MOVE_SECONDS", 0.1)


async def test_streams_are_finished_and_new_work_is_refused(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    alone = (await complete(gateway, **BABBLE))["choices"][0]["message"]["content"]
    verifier.step = 0.01
    async with gateway.agent() as agent, gateway.http() as http:
        stream = asyncio.create_task(chunks(gateway, **BABBLE))
        awaited = asyncio.create_task(http.post("/v1/chat/completions", json={"model": "toy"} | BABBLE))
        await until(lambda: len(agent.opened) == 2 and all(len(c) > 1 for c in agent.committed.values()))
        draining = asyncio.create_task(gateway.state.drain.run())
        assert await agent.closing() == (wire.MOVE, "this gateway is going; attach again, another one answers")
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/tokenize"):
            refused = await http.post(path, json={})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            assert refused.headers["x-request-id"]
        with pytest.raises(InvalidStatus) as denied:
            await gateway.agent().dial()
        assert denied.value.response.status_code == 503
        assert not draining.done()
        got = await stream
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got) == alone
        assert got[-1]["edgedraft"]["mode"] == "mixed"
        answer = await awaited
        assert answer.json()["choices"][0]["message"]["content"] == alone
        assert answer.headers["connection"] == "close"
        async with asyncio.timeout(60):
            await draining


async def test_it_ends_with_the_grace_at_the_latest(tmp_path: Path) -> None:
    async with (
        ScriptedVerifier(step=120) as verifier,
        running_gateway(tmp_path, verifier, drain_grace=0.2) as gateway,
    ):
        task = asyncio.create_task(chunks(gateway, **BABBLE))
        await until(lambda: verifier.opened)
        began = time.monotonic()
        await gateway.state.drain.run()
        assert 0.2 <= time.monotonic() - began < 60
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_agents_go_one_after_the_other(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.agents.registry.MOVE_SECONDS", 0.3)
    at: list[float] = []
    request_move = AgentLink.request_move

    def timed(link: AgentLink) -> None:
        at.append(time.monotonic())
        request_move(link)

    monkeypatch.setattr(AgentLink, "request_move", timed)
    async with gateway.agent() as first, gateway.agent() as second, gateway.agent() as third:
        draining = asyncio.create_task(gateway.state.drain.run())
        for agent in (first, second, third):
            assert (await agent.closing())[0] == wire.MOVE
        await draining
    assert len(at) == 3
    assert all(later - earlier > 0.09 for earlier, later in pairwise(at))
