"""A client that goes away takes its generation with it, at once, everywhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
import pytest

from tests.gateway.api.test_chat import complete, user
from tests.gateway.conftest import Gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

LONG: dict[str, Any] = {"model": "toy", "messages": user("babble"), "max_tokens": 1500}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
async def test_a_disconnect_cancels_everywhere(
    gateway: Gateway, verifier: ScriptedVerifier, stream: bool, choices: int
) -> None:
    verifier.step = 0.01
    async with gateway.agent() as agent:
        body = LONG | {"stream": stream, "n": choices}
        task = asyncio.create_task(read_for_ever(gateway, body))
        await until(lambda: len(agent.opened) == choices and all(len(c) > 5 for c in agent.committed.values()))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: len(verifier.cancelled) == choices and len(agent.closed) == choices)
        made = len(verifier.commits)
        await asyncio.sleep(0.1)
        assert len(verifier.commits) == made < 1000
        assert gateway.state.metrics.sessions._value.get() == 0
        assert not gateway.state.admission._running


async def read_for_ever(gateway: Gateway, body: dict[str, Any]) -> None:
    async with gateway.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_bytes():
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_before_the_first_token(gateway: Gateway, verifier: ScriptedVerifier, stream: bool) -> None:
    verifier.step = 5
    with contextlib.suppress(httpx.ReadTimeout):
        async with gateway.http() as http:
            await http.post("/v1/chat/completions", json=LONG | {"stream": stream}, timeout=0.2)
    await until(lambda: verifier.cancelled == [1])


async def test_others_do_not_notice(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    short = {"messages": user("babble"), "max_tokens": 60, "seed": 5}
    alone = await complete(gateway, **short)
    tasks = [asyncio.create_task(read_for_ever(gateway, LONG | {"stream": True})) for _ in range(3)]
    ours = asyncio.create_task(complete(gateway, **short))
    await until(lambda: len(verifier.opened) == 5)
    for task in tasks:
        task.cancel()
    assert (await ours)["choices"] == alone["choices"]
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_client_that_does_not_read_holds_up_nobody(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    async with (
        gateway.http() as http,
        http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as response,
    ):
        assert response.status_code == 200
        assert (await complete(gateway, messages=user("babble"), max_tokens=20))["usage"]["completion_tokens"] == 20
        await until(lambda: len(verifier.commits) > 1500, seconds=30)
