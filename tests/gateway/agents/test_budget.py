"""An agent's message budget: Opens and Commits add to it, and exceeding it ends that agent's link only."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from edgedraft import wire
from edgedraft.links.frame_meter import FRAME_LIMITS
from edgedraft.wire import Draft, WireError, encode_frame
from gateway.agents.budget import MAX_MESSAGES, AgentBudget
from tests.gateway.api.test_chat import complete, user
from tests.gateway.conftest import Gateway
from tests.support.scripted_agent import ScriptedAgent
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until

BABBLE: dict[str, Any] = {"messages": user("babble"), "max_tokens": 60, "seed": 3}
LATE = Draft(1, 1, 0, 1, [1], [0], b"\0")  # of a session that has ended: right, and worth nothing


async def until_closed(agent: ScriptedAgent, frame: bytes) -> tuple[int, tuple[int | None, str | None]]:
    """Send it until the gateway has enough of it; returns how often, and code and reason of its close.

    Now and then it waits until the gateway has read all of it: too many frames in one read are a fault of their own.
    """
    sent = 0
    while agent.connection.close_code is None and sent < 4 * MAX_MESSAGES:
        with suppress(ConnectionClosed):
            await agent.connection.send(frame)
            sent += 1
            if sent % (FRAME_LIMITS.frames_per_read // 4) == 0:
                await (await agent.connection.ping())
    return sent, await agent.closing()


@pytest.mark.parametrize(
    ("frame", "word"),
    [
        (encode_frame([LATE]), "messages"),
        (encode_frame([LATE] * 500), "messages"),
        (encode_frame([]), "messages"),
        (encode_frame([Draft(1, 1, 0, 1, [2**31 - 1] * 64, [2**53] * 64, bytes(64))] * 200), "bytes"),
    ],
)
async def test_messages_past_the_budget_end_the_link(
    gateway: Gateway, verifier: ScriptedVerifier, frame: bytes, word: str
) -> None:
    async with gateway.agent(mute=True) as agent:
        verifier.draft_wait = 0.001
        await complete(gateway, **BABBLE | {"max_tokens": 3})
        _, (code, reason) = await until_closed(agent, frame)
        assert code == wire.TOO_FAST
        assert reason
        assert f"more {word} than" in reason
    async with gateway.agent():
        assert (await complete(gateway, **BABBLE))["edgedraft"]["mode"] == "edge"


async def test_an_agent_that_drafts_as_the_window_allows_is_never_stopped(
    gateway: Gateway, verifier: ScriptedVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node a message, wrong every other time: the most messages that a well-behaved agent can have a reason for."""
    monkeypatch.setattr("gateway.agents.budget.MAX_MESSAGES", 64)
    monkeypatch.setattr("gateway.agents.budget.MESSAGES_PER_SECOND", 0.0)

    async def one_by_one(messages: list[Draft]) -> None:
        for message in messages:
            if not isinstance(message, Draft):
                await agent.connection.send(encode_frame([message]))
                continue
            for i, (token, parent) in enumerate(zip(message.tokens, message.parents, strict=True)):
                part = Draft(message.session, message.epoch, message.at, message.first + i, [token], [parent], b"\1")
                await agent.connection.send(encode_frame([part]))

    agent = gateway.agent(wrong_every=2)
    monkeypatch.setattr(agent, "say", one_by_one)
    async with agent:
        for _ in range(2):
            got = await complete(gateway, **BABBLE)
            assert got["edgedraft"]["mode"] == "edge"
        await until(lambda: len(agent.closed) == 2)
        assert agent.drafted > 4 * 64, "many times what may be saved up"
        assert agent.connection.close_code is None


def test_the_budget_is_earned_by_windows_and_by_time() -> None:
    now = 0.0
    budget = AgentBudget(lambda: now)
    budget.take_messages(MAX_MESSAGES)
    with pytest.raises(WireError):
        budget.take_messages(1)
    budget.allow(16)
    budget.take_messages(16)
    now = 1000.0
    budget.take_frame(100)
    budget.take_messages(MAX_MESSAGES)
    with pytest.raises(WireError):
        budget.take_frame(64 * MAX_MESSAGES)
