"""Attack: one key opens as many generations as it may, to take every place of a verifier and of its queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.accounts import KeyLimits
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.waiting import until
from tests.verifier.counting_engine import LIMITS, CountingEngine
from tests.verifier.running_server import running
from verifier.engine.interface import ScheduledSession, StepResult

PLACES, RESERVED, WAITING = 4, 1, 4
STEP_SECONDS = 0.005


class LetterEngine(CountingEngine):
    """Writes one letter again and again."""

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        time.sleep(STEP_SECONDS)
        results = super().step(scheduled)
        return [replace(result, tokens=(ord("a"),) * len(result.tokens)) for result in results]


@pytest.fixture
def engine() -> LetterEngine:
    return LetterEngine(PLACES + RESERVED)


@pytest.fixture
async def gateway(tmp_path: Path, engine: LetterEngine) -> AsyncIterator[Gateway]:
    limits = replace(LIMITS, max_sessions=PLACES, max_waiting=WAITING)
    with running(engine, limits, toy_model.card(), PLACES + RESERVED) as verifier:
        settings = {"verifier": [verifier.url], "hedge_after": 0.0, "silence_timeout": 60.0}
        async with running_gateway(tmp_path, **settings) as gateway:
            await until(lambda: gateway.state.verifiers.ready)
            yield gateway


async def ask(http: httpx.AsyncClient, tokens: int) -> httpx.Response:
    body = {"model": "toy", "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens}
    return await http.post("/v1/chat/completions", json=body, timeout=60)


async def test_a_greedy_key_has_all_places_while_it_is_alone_and_keeps_nobody_out(
    gateway: Gateway, engine: LetterEngine
) -> None:
    greedy = await gateway.accounts.create("eve", "acme", ["inference"], limits=KeyLimits(concurrent=1000))
    modest = await gateway.accounts.create("ann", "other", ["inference"])
    async with gateway.http(greedy) as hers, gateway.http(modest) as his:
        endless = [asyncio.create_task(ask(hers, 800)) for _ in range(PLACES + WAITING)]
        await until(lambda: sum(link.waiting for link in gateway.state.verifiers.links) == WAITING)
        assert len(engine.num_uncomputed) == PLACES, "all but the reserved one"
        assert [(await ask(his, 3)).status_code for _ in range(5)] == [200] * 5
        assert not any(task.done() for task in endless), "it waited for none of them"
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)


async def test_a_full_queue_makes_room_for_who_has_least(gateway: Gateway, engine: LetterEngine) -> None:
    greedy = await gateway.accounts.create("eve", "acme", ["inference"], limits=KeyLimits(concurrent=1000))
    modest = await gateway.accounts.create("ann", "other", ["inference"])
    async with gateway.http(greedy) as hers, gateway.http(modest) as his:
        endless = [asyncio.create_task(ask(hers, 200)) for _ in range(PLACES + WAITING)]
        await until(lambda: sum(link.waiting for link in gateway.state.verifiers.links) == WAITING)
        answers = await asyncio.gather(*(ask(his, 5) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
        ended = await asyncio.gather(*endless)
    refused = [answer for answer in ended if answer.status_code != 200]
    assert refused
    assert {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
