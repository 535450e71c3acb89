"""A verifier's chat template takes all memory or all time, at the greeting or with the first chat."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from edgedraft.workers.limits import WorkerLimits
from edgedraft.workers.pool import JobOwner
from gateway.model.prompt_workers import PromptRefused, PromptWorkers
from gateway.model.served_model import UnusableCard
from tests.gateway.conftest import running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

OWNER = JobOwner("key")
HELLO = [{"role": "user", "content": "hi"}]
MEMORY = 512 << 20

_LOOP = "{% for a in range(99999) %}"
ENDLESS = _LOOP * 3 + "{% endfor %}" * 3
TEMPLATES = [
    "{{ 'x' * 4000000000 }}",
    "{{ '%4000000000d' % 1 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x' * (messages | length * 4000000000) }}",
    "{{ '%4000000000d' % (messages | length) }}",
    "{{ 'x' | center(messages | length * 4000000000) }}",
    ENDLESS,
    "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
]


@pytest.fixture
def pool() -> Iterator[PromptWorkers]:
    limits = WorkerLimits(cpu_seconds=1.0, setup_cpu_seconds=1.0, memory_bytes=MEMORY, output_bytes=1 << 24)
    with closing(PromptWorkers(limits)) as workers:
        yield workers


async def load_and_render(pool: PromptWorkers, template: str) -> None:
    model = await pool.load_model(toy_model.card(template=template))
    await pool.render(model, HELLO, {}, None, OWNER)


@pytest.mark.parametrize("template", TEMPLATES)
async def test_a_chat_with_such_a_template_is_refused(pool: PromptWorkers, template: str) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises((UnusableCard, PromptRefused)):
        await load_and_render(pool, template)
    good = await pool.load_model(toy_model.card(name="good"))
    assert (await pool.render(good, HELLO, {}, None, OWNER)).tokens == toy_model.chat_prompt(("user", "hi"))
    assert psutil.Process().memory_info().rss - before < 100 << 20


async def test_other_streams_go_on_meanwhile(pool: PromptWorkers, verifier: ScriptedVerifier, tmp_path: Path) -> None:
    """A second model's template loops: its chats are answered 400, and the event loop is free for others."""
    endless = toy_model.card(name="endless", template=ENDLESS)
    async with (
        ScriptedVerifier(card=endless) as hostile,
        running_gateway(tmp_path, verifier, hostile, prompts=pool) as gateway,
        gateway.http() as http,
    ):
        await until(lambda: gateway.state.verifiers.catalog.get("endless"))
        answered = 0

        async def honest() -> None:
            nonlocal answered
            while True:
                assert (await http.get("/health")).status_code == 200
                answered += 1

        watching = asyncio.create_task(honest())
        response = await http.post("/v1/chat/completions", json={"model": "endless", "messages": HELLO}, timeout=120)
        assert not watching.done()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert response.status_code == 400
    assert "too much time" in response.json()["error"]["message"]
    assert answered > 20
