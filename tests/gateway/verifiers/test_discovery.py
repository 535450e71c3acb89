"""Verifiers behind a DNS name: new addresses are used, and removed ones are left without losing a session.

Sockets are real, each verifier at a loopback address of its own; the test sets what the name resolves to, except in
one test that asks the operating system.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.api.test_chat import chunks, complete, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.verifiers.test_failover import ALONE, BABBLE, streamed
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.waiting import until


class Name:
    """What a name resolves to, and how often it was resolved."""

    def __init__(self) -> None:
        self.addresses: set[str] | None = set()
        self.asked = 0

    async def __call__(self, host: str, port: int) -> set[str]:
        assert host == "verifiers.test"
        self.asked += 1
        if self.addresses is None:
            raise OSError("temporary failure")
        return self.addresses


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    name = Name()
    monkeypatch.setattr("gateway.verifiers.discovery.lookup", name)
    monkeypatch.setattr("gateway.verifiers.pool.IDLE_POLL_SECONDS", 0.02)
    return name


@pytest.fixture
async def group() -> AsyncIterator[list[ScriptedVerifier]]:
    """Three at one port of 127.0.0.1, .2 and .3."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(ScriptedVerifier())
        others = [ScriptedVerifier(port=first.port, host=f"127.0.0.{last}") for last in (2, 3)]
        yield [first, *[await stack.enter_async_context(other) for other in others]]


@contextlib.asynccontextmanager
async def serving(folder: Path, port: int, host: str = "verifiers.test", **options: Any) -> AsyncIterator[Gateway]:
    url = f"dns+ws://{host}:{port}"
    async with running_gateway(folder, verifier=[url], dns_seconds=0.05, **options) as gateway:
        yield gateway


async def test_new_addresses_are_used_and_removed_ones_left_when_their_sessions_have_ended(
    tmp_path: Path, name: Name, group: list[ScriptedVerifier]
) -> None:
    one, two, three = group
    name.addresses = {"127.0.0.1"}
    async with serving(tmp_path, one.port) as gateway:
        await until(lambda: one.connections)
        one.step = 0.01
        stream = asyncio.create_task(chunks(gateway, **BABBLE))
        await until(lambda: len(one.commits) > 5)
        name.addresses = {"127.0.0.2", "127.0.0.3"}
        await until(lambda: two.connections and three.connections)
        await complete(gateway, **BABBLE, n=4)
        assert (len(one.opened), len(two.opened), len(three.opened)) == (1, 2, 2)
        assert one.connections, "it has a session still"
        assert streamed(await stream) == ALONE
        await until(lambda: not one.connections)
        assert not one.cancelled
        assert len(gateway.state.verifiers.links) == 2


async def test_a_name_that_cannot_be_resolved_changes_nothing(
    tmp_path: Path, name: Name, group: list[ScriptedVerifier]
) -> None:
    name.addresses = {"127.0.0.1", "127.0.0.2"}
    async with serving(tmp_path, group[0].port) as gateway:
        await until(lambda: group[0].connections and group[1].connections)
        name.addresses = None
        asked = name.asked
        await until(lambda: name.asked > asked + 2)
        assert len(gateway.state.verifiers.links) == 2
        assert await complete(gateway, **BABBLE)


async def test_an_address_that_comes_back_before_it_was_removed_stays(
    tmp_path: Path, name: Name, group: list[ScriptedVerifier]
) -> None:
    one = group[0]
    name.addresses = {"127.0.0.1"}
    async with serving(tmp_path, one.port) as gateway:
        await until(lambda: one.connections)
        one.step = 0.02
        task = asyncio.create_task(complete(gateway, **BABBLE))
        await until(lambda: one.opened)
        name.addresses = set()
        await until(lambda: not gateway.state.verifiers.ready)
        name.addresses = {"127.0.0.1"}
        await until(lambda: gateway.state.verifiers.ready)
        one.step = 0.0
        await task
        asked = name.asked
        await until(lambda: name.asked > asked + 1)
        assert len(one.connections) == 1
        assert await complete(gateway, **BABBLE)


async def test_an_unreachable_address_delays_nothing(tmp_path: Path, name: Name, group: list[ScriptedVerifier]) -> None:
    name.addresses = {"127.0.0.9", "127.0.0.3"}
    async with serving(tmp_path, group[0].port) as gateway:
        assert await complete(gateway, messages=user("say hello"))
        assert len(group[2].opened) == 1


async def test_names_are_resolved_by_the_operating_system(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    async with serving(tmp_path, verifier.port, host="localhost") as gateway:
        assert await complete(gateway, **BABBLE)
        assert [link.url for link in gateway.state.verifiers.links] == [f"ws://localhost:{verifier.port} at 127.0.0.1"]
