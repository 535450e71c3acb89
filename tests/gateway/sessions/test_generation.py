"""A generation: its events, and one record of its end, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.output.events import ChoiceFinished, OutputEvent
from gateway.records.generation import GenerationRecord
from gateway.sessions.errors import Overloaded, RequestRejected, error_type
from gateway.sessions.generation import Generation, GenerationRequest
from gateway.storage.database import DatabaseDown
from tests.gateway.sessions.test_choices import REQUEST, ScriptedSession
from tests.support.generation_records import PRINCIPAL

COST = 17  # of every request


class Accounting:
    """Ledger entry, rate reservation and recorder in one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.taken: list[tuple[int, list[int]]] = []
        self.settled: list[int] = []
        self.rows: list[GenerationRecord] = []
        self.records: list[GenerationRecord] = []
        self._error = error

    async def take_tokens(self, prompt_tokens: int, max_tokens: list[int]) -> None:
        self.taken.append((prompt_tokens, max_tokens))

    async def reserve_spend(self, model: str, prompt_tokens: int, max_tokens: list[int]) -> None:
        """No budget."""

    def settle(self, tokens: int, cost: int) -> None:
        self.settled.append(tokens)
        assert cost == COST

    async def begin(self, progress: Callable[[], object]) -> None:
        if self._error:
            raise self._error

    def end(self, record: GenerationRecord) -> Any:
        self.rows.append(record)
        return SimpleNamespace(verifier_cost=COST)


def generation(accounting: Accounting, *sessions: ScriptedSession) -> Generation:
    waiting = list(sessions)
    factory = type("Factory", (), {"create": lambda self, request: waiting.pop(0)})()
    request = GenerationRequest("chat", PRINCIPAL, (REQUEST,) * len(sessions), (), 5, 0.0)
    parts = cast(Any, accounting)
    return Generation(request, cast(Any, factory), parts, parts, [accounting.records.append])


async def run(generation: Generation) -> list[OutputEvent]:
    async with generation.run() as batches:
        return [event async for events in batches for event in events]


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_finished_generation_is_recorded_once(choices: int) -> None:
    accounting = Accounting()
    made = generation(accounting, *(ScriptedSession("ab", "c") for _ in range(choices)))
    events = await run(made)
    assert sum(isinstance(event, ChoiceFinished) for event in events) == choices
    (record,) = accounting.records
    assert accounting.rows == [record]
    assert (record.outcome, record.error, record.output_tokens) == ("finished", "", 3 * choices)
    assert record.finish_reasons == ("length",) * choices
    assert record.time_to_first_text is not None
    assert accounting.taken == [(5, [50] * choices)]
    assert accounting.settled == [5 + 3 * choices]
    assert (made.metrics()["speculative_decoding"] is None) == (choices > 1)


async def test_a_rejected_generation_costs_nothing() -> None:
    accounting = Accounting()
    with pytest.raises(RequestRejected):
        await run(generation(accounting, ScriptedSession(error=RequestRejected("no"))))
    (record,) = accounting.records
    assert (record.outcome, record.reported_outcome, record.error) == ("refused", "failed", "Refused")
    assert accounting.settled == [0]


async def test_a_ledger_that_cannot_be_written_starts_no_session() -> None:
    accounting, session = Accounting(DatabaseDown("gone")), ScriptedSession("a")
    with pytest.raises(DatabaseDown):
        await run(generation(accounting, session))
    assert [record.outcome for record in accounting.rows] == ["refused"]
    assert not session.closed


async def test_a_cancelled_generation_closes_its_session_before_the_record() -> None:
    accounting, session = Accounting(), ScriptedSession("a", finish=False)
    started = asyncio.Event()

    async def read() -> None:
        async with generation(accounting, session).run() as batches:
            async for _ in batches:
                started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert session.closed
    assert [record.outcome for record in accounting.records] == ["cancelled"]


def test_error_types_do_not_follow_class_names() -> None:
    errors = [RequestRejected(""), Overloaded(""), DatabaseDown("")]
    assert [error_type(error) for error in errors] == ["Refused", "Crowded", "DatabaseDown"]
