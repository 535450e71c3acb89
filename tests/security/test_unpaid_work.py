"""Attack: a client has a verifier compute and leaves before the first token, so that no commit tells what it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from gateway.storage.tables import usage
from tests.fuzz.parts import ScriptedEngine
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.waiting import until
from tests.verifier.running_server import RunningVerifier, running
from verifier.engine.interface import ScheduledSession, StepResult
from verifier.engine_loop import WARM_UP_KEY
from verifier.scheduling.scheduler import SchedulerLimits

STEP_SECONDS = 0.03
LIMITS = SchedulerLimits(step_tokens=32, verify_nodes=0, prompt_delay=60, draft_wait=0, wait_share=0)
LONG = [{"role": "user", "content": "x" * 1000}]  # 32 steps
SHORT = [{"role": "user", "content": "x"}]


class SlowEngine(ScriptedEngine):
    """A step takes STEP_SECONDS, shared by the tokens that were computed in it."""

    def __init__(self) -> None:
        super().__init__(toy_model.VOCAB_SIZE, 2048, 8)
        self.seconds = 0.0
        self.opened = 0

    def open(self, request: Any) -> int:
        self.opened += 1
        return super().open(request)

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        time.sleep(STEP_SECONDS)
        if scheduled[0].session != WARM_UP_KEY:
            self.seconds += STEP_SECONDS
        tokens = sum(item.num_tokens for item in scheduled)
        shares = {item.session: STEP_SECONDS * item.num_tokens / tokens for item in scheduled}
        return [replaced(result, seconds=shares[result.session]) for result in super().step(scheduled)]


@dataclass
class Around:
    engine: SlowEngine
    verifier: RunningVerifier
    gateway: Gateway

    async def rows(self) -> list[Any]:
        async with self.gateway.state.database.connect() as connection:
            return list(await connection.execute(select(usage)))

    async def billed(self) -> float:
        return sum(row.verifier_ns or 0 for row in await self.rows()) / 1e9

    async def until_all_is_billed(self, seconds: float = 20) -> None:
        await asyncio.to_thread(self.verifier.wait_idle)
        deadline = time.monotonic() + seconds
        while abs(await self.billed() - self.engine.seconds) > 1e-6:
            assert time.monotonic() < deadline, (await self.billed(), self.engine.seconds)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def around(folder: Path, **options: Any) -> AsyncIterator[Around]:
    engine = SlowEngine()
    with running(engine, LIMITS, toy_model.card(), 8) as verifier:
        async with running_gateway(folder, verifier, **options) as gateway:  # type: ignore[arg-type]
            here = Around(engine, verifier, gateway)
            async with gateway.http() as http:  # after it, the verifier has warmed up
                body = {"model": "toy", "messages": SHORT, "max_tokens": 1}
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
            await here.until_all_is_billed()
            engine.opened = 0
            yield here


async def leave_early(here: Around, http: httpx.AsyncClient, steps: int) -> None:
    """Ask for a long prompt, and leave when some of it has been computed."""
    before = here.engine.opened
    body = {"model": "toy", "messages": LONG, "max_tokens": 4}
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
    await until(lambda: here.engine.opened > before)
    began = here.engine.seconds
    await until(lambda: here.engine.seconds > began + steps * STEP_SECONDS)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_prompt_that_was_given_up_is_on_its_row(tmp_path: Path) -> None:
    async with around(tmp_path) as here, here.gateway.http() as http:
        await leave_early(here, http, 6)
        await here.until_all_is_billed()
        row = next(row for row in await here.rows() if row.outcome != "finished")
        assert (row.outcome, row.output_tokens) == ("cancelled", 0)
        assert 5 * STEP_SECONDS < row.verifier_ns / 1e9 < 32 * STEP_SECONDS
        assert row.verifier_cost > 0
        assert row.baseline_ns == row.verifier_ns


async def test_all_rows_together_have_what_the_verifier_computed(tmp_path: Path) -> None:
    """Requests that end, that are given up in the prompt, in mid-text, and in the verifier's queue."""
    async with around(tmp_path, hedge_after=0.1) as here, here.gateway.http() as http:

        async def finish(messages: list[Any]) -> None:
            body = {"model": "toy", "messages": messages, "max_tokens": 6}
            assert (await http.post("/v1/chat/completions", json=body, timeout=60)).status_code == 200

        async def leave_in_text() -> None:
            body = {"model": "toy", "messages": SHORT, "max_tokens": 500, "stream": True, "ignore_eos": True}
            async with http.stream("POST", "/v1/chat/completions", json=body, timeout=60) as response:
                async for line in response.aiter_lines():
                    if line:
                        return

        early = [leave_early(here, http, 3 + n) for n in range(4)]
        await asyncio.gather(*early, *(finish(SHORT) for _ in range(3)), *(leave_in_text() for _ in range(4)))
        await finish(LONG)
        await here.until_all_is_billed()
        assert len(await here.rows()) == 13


async def test_a_long_prompt_is_no_dead_verifier(tmp_path: Path) -> None:
    """Its prefill takes several times the time after which silence counts as a failure."""
    async with around(tmp_path, silence_timeout=1.2) as here, here.gateway.http() as http:
        for number in range(3):
            messages = [{"role": "user", "content": f"{number}" + "x" * 1900}]
            body = {"model": "toy", "messages": messages, "max_tokens": 2}
            response = await http.post("/v1/chat/completions", json=body, timeout=60)
            assert response.status_code == 200, response.text
        assert here.engine.opened == 3, "each in one try"
        (link,) = here.gateway.state.verifiers.links
        await until(lambda: not link.running)
        assert not link.health.ejected
