"""Streams over the whole service while agents, gateways and verifiers fail: whole, token-identical, billed once.

EDGEDRAFT_CHAOS_SEED repeats a run's cases and faults; EDGEDRAFT_THOROUGH=1 makes it 500 streams.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from openai import AsyncOpenAI
from sqlalchemy import select

from gateway.storage.database import Database
from gateway.storage.tables import usage
from tests.chaos.asking import Answer, Case, Told, ask, cases, survive
from tests.chaos.faults import Faults, Kind, plan
from tests.chaos.liars import LIARS, Lies, lie
from tests.conftest import THOROUGH
from tests.support.topology import KEY, Topology

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600 if THOROUGH else 900)]

STREAMS, CASES, AT_ONCE, ROUNDS = (500, 125, 24, 3) if THOROUGH else (40, 40, 10, 1)


@pytest.fixture
def seed() -> int:
    """Told where a test fails."""
    seed = int(os.environ.get("EDGEDRAFT_CHAOS_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"EDGEDRAFT_CHAOS_SEED={seed}")
    return seed


async def test_whatever_fails_every_stream_is_whole_the_same_and_billed_once(topology: Topology, seed: int) -> None:
    rng = random.Random(seed)
    asked, kinds, run = cases(rng, CASES), plan(rng, ROUNDS), f"chaos-{time.time_ns():x}"
    reference = await quiet(topology, asked, run)
    storm = Storm(topology, asked, kinds, run, rng)
    await storm.pass_over()
    print(storm.report())

    assert not [(one.name, one.broken) for one in storm.told if one.broken]
    differing = [one for one in storm.told if one.answer != reference[one.case]]
    assert not differing, [reference[one.case] for one in differing]
    assert storm.faults.done == Counter(kinds)
    assert storm.faults.idle == 0, "streams were running whenever something failed"
    assert len(storm.lies.drafted) == len(LIARS)
    assert min(storm.lies.drafted.values()) > 0, "each liar was heard"
    await billed_once(topology, storm.told, run)
    await mended(topology)


def clients_of(topology: Topology) -> list[AsyncOpenAI]:
    return [AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=300) for url in topology.fleet.urls]


async def quiet(topology: Topology, asked: Sequence[Case], run: str) -> dict[Case, Answer]:
    """Every case, datacenter-only, with nothing wrong anywhere."""
    clients, answers = clients_of(topology), dict[Case, Answer]()
    left = enumerate(asked)

    async def ask_on() -> None:
        for index, case in left:
            answers[case], mode = await ask(clients[index % 2], case, f"{run}-quiet-{index}", edge=False)
            assert mode == "datacenter"

    await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    return answers


class Storm:
    """The cases asked again and again while faults happen, spread over the streams, until the last fault has begun."""

    def __init__(
        self, topology: Topology, asked: Sequence[Case], kinds: Sequence[Kind], run: str, rng: random.Random
    ) -> None:
        self.told: list[Told] = []
        self.lies = Lies()
        self.faults = Faults(topology, random.Random(rng.random()), lambda: self._running)
        self._asked = asked
        self._kinds = kinds
        self._run = run
        self._clients = clients_of(topology)
        self._begun = self._running = 0
        self._seconds = 0.0
        urls = topology.fleet.urls
        self._liars = [partial(lie, kind, partial(rng.choice, urls), KEY, rng, self.lies) for kind in LIARS]

    async def pass_over(self) -> None:
        began = time.monotonic()
        liars = [asyncio.create_task(liar()) for liar in self._liars]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._ask_on())
                for index, kind in enumerate(self._kinds):
                    due = STREAMS * (index + 1) // (len(self._kinds) + 2)
                    while len(self.told) < due:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    group.create_task(self.faults.cause(kind))
        finally:
            for liar in liars:
                liar.cancel()
            await asyncio.gather(*liars, return_exceptions=True)
        self._seconds = time.monotonic() - began

    async def _ask_on(self) -> None:
        while self._begun < STREAMS or self.faults.done.total() < len(self._kinds):
            index = self._begun
            self._begun += 1
            self._running += 1
            case = self._asked[index % len(self._asked)]
            self.told.append(await survive(self._clients, case, f"{self._run}-{index}", index))
            self._running -= 1

    def report(self) -> str:
        modes = Counter(one.mode for one in self.told)
        turned = sum(len(one.turned) for one in self.told)
        return "\n".join(
            (
                f"{len(self.told)} streams in {self._seconds:.0f} s, {AT_ONCE} at once: {dict(modes)}",
                f"turned away and asked again: {turned} times; broken: {sum(bool(one.broken) for one in self.told)}",
                f"liars: {self.lies.sessions} sessions, nodes {dict(self.lies.drafted)}, "
                f"closed {dict(self.lies.closed)}",
                f"faults: {dict(self.faults.done)}",
                *self.faults.story,
            )
        )


async def billed_once(topology: Topology, told: Sequence[Told], run: str) -> None:
    """One record of every stream, finished and of what it was told; of one that was turned away, none that says so."""
    database = Database(topology.database)
    await database.open(upgrade=False)
    query = select(usage).where(usage.c.request_id.like(f"{run}-%"))
    records: defaultdict[str, list[Any]] = defaultdict(list)
    async with asyncio.timeout(30):
        while True:
            async with database.connect() as connection:
                rows = list(await connection.execute(query))
            if all(row.outcome != "running" for row in rows):
                break
            await asyncio.sleep(0.1)
    await database.close()
    for row in rows:
        records[row.request_id].append(row)
    for one in told:
        assert one.answer
        found = [(row.outcome, row.output_tokens, row.mode) for row in records[one.name]]
        assert found == [("finished", one.answer.output_tokens, one.mode)], one.name
        for name in one.turned:
            assert [row.outcome for row in records[name] if row.outcome == "finished"] == [], name
            assert len(records[name]) <= 1, name


async def mended(topology: Topology) -> None:
    """Nothing is left open anywhere, and every agent is attached."""
    await asyncio.to_thread(topology.until_attached)
    left = topology.open()
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while left := topology.open():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert not left
