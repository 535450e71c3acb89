"""Streams over the whole service while agents, gateways and verifiers fail: complete, token-identical, billed once.

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
from tests.chaos.adversarial_agents import ADVERSARIES, AttackStats, run_adversary
from tests.chaos.clients import Answer, Case, Outcome, ask, ask_until_admitted, cases
from tests.chaos.faults import Faults, Kind, plan
from tests.conftest import THOROUGH
from tests.support.topology import KEY, Topology

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600 if THOROUGH else 900)]

STREAMS, CASES, AT_ONCE, ROUNDS = (500, 125, 24, 3) if THOROUGH else (40, 40, 10, 1)


@pytest.fixture
def seed() -> int:
    """The seed of this run, printed so that a failure can be repeated."""
    seed = int(os.environ.get("EDGEDRAFT_CHAOS_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"EDGEDRAFT_CHAOS_SEED={seed}")
    return seed


async def test_whatever_fails_every_stream_is_whole_the_same_and_billed_once(topology: Topology, seed: int) -> None:
    rng = random.Random(seed)
    asked, kinds, run = cases(rng, CASES), plan(rng, ROUNDS), f"chaos-{time.time_ns():x}"
    reference = await reference_answers(topology, asked, run)
    chaos = ChaosRun(topology, asked, kinds, run, rng)
    await chaos.run()
    print(chaos.report())

    assert not [(one.name, one.broken) for one in chaos.outcomes if one.broken]
    differing = [one for one in chaos.outcomes if one.answer != reference[one.case]]
    assert not differing, [reference[one.case] for one in differing]
    assert chaos.faults.done == Counter(kinds)
    assert chaos.faults.idle == 0, "streams were running whenever something failed"
    assert len(chaos.attacks.drafted) == len(ADVERSARIES)
    assert min(chaos.attacks.drafted.values()) > 0, "every kind of adversary has drafted"
    await assert_billed_once(topology, chaos.outcomes, run)
    await assert_recovered(topology)


def clients_of(topology: Topology) -> list[AsyncOpenAI]:
    return [AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=300) for url in topology.fleet.urls]


async def reference_answers(topology: Topology, asked: Sequence[Case], run: str) -> dict[Case, Answer]:
    """Every case's answer, datacenter-only and without faults."""
    clients, answers = clients_of(topology), dict[Case, Answer]()
    left = enumerate(asked)

    async def ask_on() -> None:
        for index, case in left:
            answers[case], mode = await ask(clients[index % 2], case, f"{run}-quiet-{index}", edge=False)
            assert mode == "datacenter"

    await asyncio.gather(*(ask_on() for _ in range(AT_ONCE)))
    return answers


class ChaosRun:
    """Repeats the cases while faults are injected, spread over the streams, until the last fault has started."""

    def __init__(
        self, topology: Topology, asked: Sequence[Case], kinds: Sequence[Kind], run: str, rng: random.Random
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.attacks = AttackStats()
        self.faults = Faults(topology, random.Random(rng.random()), lambda: self._running)
        self._asked = asked
        self._kinds = kinds
        self._run_name = run
        self._clients = clients_of(topology)
        self._begun = self._running = 0
        self._seconds = 0.0
        urls = topology.fleet.urls
        self._adversaries = [
            partial(run_adversary, kind, partial(rng.choice, urls), KEY, rng, self.attacks) for kind in ADVERSARIES
        ]

    async def run(self) -> None:
        began = time.monotonic()
        adversaries = [asyncio.create_task(agent()) for agent in self._adversaries]
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._ask_on())
                for index, kind in enumerate(self._kinds):
                    due = STREAMS * (index + 1) // (len(self._kinds) + 2)
                    while len(self.outcomes) < due:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    group.create_task(self.faults.inject(kind))
        finally:
            for agent in adversaries:
                agent.cancel()
            await asyncio.gather(*adversaries, return_exceptions=True)
        self._seconds = time.monotonic() - began

    async def _ask_on(self) -> None:
        while self._begun < STREAMS or self.faults.done.total() < len(self._kinds):
            index = self._begun
            self._begun += 1
            self._running += 1
            case = self._asked[index % len(self._asked)]
            self.outcomes.append(await ask_until_admitted(self._clients, case, f"{self._run_name}-{index}", index))
            self._running -= 1

    def report(self) -> str:
        modes = Counter(one.mode for one in self.outcomes)
        rejected = sum(len(one.rejected) for one in self.outcomes)
        return "\n".join(
            (
                f"{len(self.outcomes)} streams in {self._seconds:.0f} s, {AT_ONCE} at once: {dict(modes)}",
                f"rejected and retried: {rejected} times; broken: {sum(bool(one.broken) for one in self.outcomes)}",
                f"adversaries: {self.attacks.sessions} sessions, nodes {dict(self.attacks.drafted)}, "
                f"closed {dict(self.attacks.closed)}",
                f"faults: {dict(self.faults.done)}",
                *self.faults.events,
            )
        )


async def assert_billed_once(topology: Topology, outcomes: Sequence[Outcome], run: str) -> None:
    """Every stream has one usage record, finished, with its tokens and mode; a rejected try has no finished record."""
    database = Database(topology.database)
    await database.open(upgrade=False)
    query = select(usage).where(usage.c.request_id.like(f"{run}-%"))
    records: defaultdict[str, list[Any]] = defaultdict(list)
    async with asyncio.timeout(120):
        while True:
            async with database.connect() as connection:
                rows = list(await connection.execute(query))
            if all(row.outcome != "running" for row in rows):
                break
            await asyncio.sleep(0.1)
    await database.close()
    for row in rows:
        records[row.request_id].append(row)
    for one in outcomes:
        assert one.answer
        found = [(row.outcome, row.output_tokens, row.mode) for row in records[one.name]]
        assert found == [("finished", one.answer.output_tokens, one.mode)], one.name
        for name in one.rejected:
            assert [row.outcome for row in records[name] if row.outcome == "finished"] == [], name
            assert len(records[name]) <= 1, name


async def assert_recovered(topology: Topology) -> None:
    """No session is left open anywhere, and every agent is attached."""
    await asyncio.to_thread(topology.until_attached)
    left = topology.open()
    with suppress(TimeoutError):
        async with asyncio.timeout(120):
            while left := topology.open():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    assert not left
