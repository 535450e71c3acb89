"""Agents and sessions over real sockets: pairing, and what an agent's loss or arrival changes (speed, never text)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edgedraft.links.settings import AGENT_ENDPOINT
from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import card
from tests.support.waiting import until

BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": 120, "seed": 3}


def text_of(got: dict[str, Any]) -> str:
    return got["choices"][0]["message"]["content"]


@pytest.fixture
async def alone(gateway: Gateway) -> str:
    """What the verifier writes without any agent."""
    return text_of(await complete(gateway, **BABBLE))


@pytest.mark.parametrize("wrong_every", [0, 2, 5])
async def test_an_agent_makes_it_quicker_and_changes_no_token(
    gateway: Gateway, verifier: ScriptedVerifier, alone: str, wrong_every: int
) -> None:
    async with gateway.agent(wrong_every=wrong_every) as agent:
        got = await complete(gateway, **BABBLE)
        assert text_of(got) == alone
        assert got["edgedraft"]["mode"] == "edge"
        assert got["edgedraft"]["verifier_steps"] < (40 if not wrong_every else 100)
        assert got["edgedraft"]["accepted"] > 0
        assert not verifier.violations
        await until(lambda: agent.closed)
        assert len(agent.committed[1]) == 120
        assert agent.opened[0].prompt == verifier.opened[-1].prompt


async def test_the_stats_have_vllms_shape(gateway: Gateway) -> None:
    async with gateway.agent(wrong_every=4):
        stats = (await complete(gateway, **BABBLE))["metrics"]["speculative_decoding"]
    histogram = stats["acceptance_histogram"]
    assert sum(histogram) == stats["num_spec_steps"] > 0
    assert sum(i * count for i, count in enumerate(histogram)) == stats["num_accepted_draft_tokens"]
    assert len(histogram) == stats["num_spec_tokens"] + 1
    assert stats["num_accepted_draft_tokens"] <= stats["num_draft_tokens"]
    assert stats["mean_acceptance_length"] == 1 + stats["num_accepted_draft_tokens"] / stats["num_spec_steps"]


async def test_nobody_elses_agent_ever_sees_a_prompt(gateway: Gateway) -> None:
    ann = await gateway.accounts.create("ann", "default", ["inference", "edge"])
    namesake = await gateway.accounts.create("default", "acme", ["inference", "edge"])
    async with gateway.agent(ann) as hers, gateway.agent(namesake) as theirs, gateway.agent(KEY) as ours:
        assert (await complete(gateway, **BABBLE))["edgedraft"]["mode"] == "edge"
        assert not hers.opened
        await ours.die()
        await until(lambda: gateway.state.metrics.agents._value.get() == 2)
        assert (await complete(gateway, **BABBLE))["edgedraft"]["mode"] == "datacenter"
        assert not hers.opened + theirs.opened


async def test_a_request_can_opt_out(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    async with gateway.agent() as agent:
        got = await complete(gateway, **BABBLE, edgedraft={"edge": False})
        assert got["edgedraft"]["mode"] == "datacenter"
        assert not agent.opened
        assert not verifier.opened[0].agent


async def test_an_agent_lost_in_mid_stream_changes_no_token(
    gateway: Gateway, verifier: ScriptedVerifier, alone: str
) -> None:
    verifier.step = 0.01
    async with gateway.agent(wrong_every=3) as agent:
        task = asyncio.create_task(chunks(gateway, **BABBLE))
        await until(lambda: agent.committed and len(agent.committed[1]) > 20)
        await agent.die()
        got = await task
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got) == alone
    assert got[-1]["edgedraft"]["mode"] == "mixed"
    assert verifier.edges == [False]


async def test_an_agent_that_attaches_late_joins_the_running_session(
    gateway: Gateway, verifier: ScriptedVerifier, alone: str
) -> None:
    verifier.step = 0.01
    task = asyncio.create_task(complete(gateway, **BABBLE))
    await until(lambda: len(verifier.commits) > 130)
    for _ in range(2):
        async with gateway.agent() as agent:
            await until(lambda agent=agent: agent.opened)
            assert len(agent.opened[0].committed) >= 10
            await until(lambda agent=agent: len(agent.committed[1]) > len(agent.opened[0].committed) + 15)
    got = await task
    assert text_of(got) == alone
    assert got["edgedraft"]["mode"] == "mixed"
    assert got["edgedraft"]["accepted"] > 0
    assert verifier.edges[:2] == [True, False]
    assert not verifier.violations


async def test_a_second_agent_takes_over_at_once(gateway: Gateway, verifier: ScriptedVerifier, alone: str) -> None:
    verifier.step = 0.01
    async with gateway.agent(max_sessions=1) as first, gateway.agent(max_sessions=1) as second:
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await until(lambda: first.opened or second.opened)
        busy, idle = (first, second) if first.opened else (second, first)
        await until(lambda: len(busy.committed[1]) > 20)
        await busy.die()
        got = await task
        assert text_of(got) == alone
        assert got["edgedraft"]["mode"] == "edge"
        assert len(idle.opened[0].committed) >= len(busy.committed[1])
        assert not verifier.violations


async def test_a_frozen_agent_stalls_nothing(gateway: Gateway, verifier: ScriptedVerifier, alone: str) -> None:
    verifier.draft_wait = 0.01
    async with gateway.agent() as agent:
        agent.connection.transport.pause_reading()
        async with asyncio.timeout(30):
            assert text_of(await complete(gateway, **BABBLE)) == alone


async def test_an_agent_too_slow_to_read_is_closed(tmp_path, verifier: ScriptedVerifier, monkeypatch) -> None:
    monkeypatch.setattr("gateway.api.agent_endpoint.SETTINGS", replace(AGENT_ENDPOINT, send_timeout=0.3))
    verifier.draft_wait = 0.01
    async with (
        running_gateway(tmp_path, verifier, small_buffers=True) as gateway,
        gateway.agent(mute=True, max_sessions=64, receive_buffer=4096) as agent,
    ):
        agent.connection.transport.pause_reading()
        huge = {"messages": user("x" * 1900), "max_tokens": 1}
        async with asyncio.timeout(60):
            while gateway.state.metrics.agents._value.get():
                await asyncio.gather(*(complete(gateway, **huge, n=8) for _ in range(4)))
        assert (await complete(gateway, **BABBLE))["usage"]["completion_tokens"] == 120


async def test_sessions_spread_over_agents_with_free_slots(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    verifier.step = 0.02
    async with gateway.agent(max_sessions=2) as first, gateway.agent(max_sessions=2) as second:
        got = await complete(gateway, **BABBLE | {"max_tokens": 60}, n=5)
        assert len(first.opened) >= 2
        assert len(second.opened) >= 2
        # The fifth found no free slot, and got one when another session ended.
        assert len(first.opened) + len(second.opened) == 5
        assert got["edgedraft"]["mode"] == "mixed"
    async with gateway.agent() as first, gateway.agent() as second:
        await complete(gateway, **BABBLE | {"max_tokens": 5}, n=4)
        assert len(first.opened) == len(second.opened) == 2


async def test_a_verifier_that_joins_later_lets_the_agent_in(tmp_path) -> None:
    async with ScriptedVerifier() as probe:
        port = probe.port
    async with running_gateway(tmp_path, verifier=[f"ws://127.0.0.1:{port}"]) as gateway:
        agent = gateway.agent()
        attaching = asyncio.create_task(agent.__aenter__())
        await until(lambda: agent._socket)
        async with ScriptedVerifier(port=port, card=card()):
            agent = await attaching
            assert agent.welcome
            assert agent.welcome.model == "toy"
            assert agent.welcome.max_sessions == 8
            await agent.die()
