"""Choices: the events of one session's commits, and several sessions side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

import pytest

from edgedraft.wire import Commit
from gateway.model.served_model import ServedModel
from gateway.output.choice_output import ChoiceOutput
from gateway.output.events import ChoiceFinished, TextDelta
from gateway.records.speculation_stats import SpeculationStats
from gateway.sessions.choices import MAX_UNREAD, SIDE_BY_SIDE, Choice, merge_events
from gateway.sessions.errors import Unavailable
from gateway.sessions.request import SessionRequest
from tests.support import toy_model

MODEL = ServedModel.from_card(toy_model.card())
REQUEST = SessionRequest(MODEL, [1], toy_model.Sampling(), 50, (toy_model.EOS,), ("t", "ann"), "t", edge=False)


class ScriptedSession:
    """Yields one commit per text, the last with a finish; without `finish` it then waits until it is closed."""

    running = 0
    most = 0

    def __init__(self, *texts: str, finish: bool = True, error: Exception | None = None) -> None:
        self.stats = SpeculationStats()
        self.closed = False
        self._texts, self._finish, self._error = texts, finish, error

    async def run(self) -> AsyncGenerator[Commit]:
        ScriptedSession.running += 1
        ScriptedSession.most = max(ScriptedSession.most, ScriptedSession.running)
        try:
            for number, text in enumerate(self._texts):
                await asyncio.sleep(0)
                last = self._finish and number == len(self._texts) - 1
                yield Commit(1, 0, ids(text), finish="length" if last else None)
            if self._error:
                raise self._error
            await asyncio.Event().wait()
        finally:
            ScriptedSession.running -= 1
            self.closed = True


def ids(text: str) -> list[int]:
    return toy_model.TOKENIZER.encode(text, add_special_tokens=False).ids


def choice(number: int, session: ScriptedSession, stops: tuple[str, ...] = (), prediction: str = "") -> Choice:
    request = replace(REQUEST, prediction=tuple(ids(prediction)))
    return Choice(request, cast(Any, session), ChoiceOutput(number, MODEL, request.eos, stops))


async def events_of(events: AsyncGenerator[list[Any]]) -> list[Any]:
    async with aclosing(events):
        return [event async for batch in events for event in batch]


def texts(events: list[Any]) -> dict[int, str]:
    joined: dict[int, str] = {}
    for event in events:
        if isinstance(event, TextDelta):
            joined[event.choice] = joined.get(event.choice, "") + event.text
    return joined


async def test_a_commit_becomes_events_at_once() -> None:
    session = ScriptedSession("ab", "c")
    single = choice(0, session)
    got = await events_of(single.events())
    assert [type(event) for event in got] == [TextDelta, TextDelta, ChoiceFinished]
    assert texts(got) == {0: "abc"}
    assert single.output_tokens == 3
    assert single.first_text_at is not None
    assert session.closed


async def test_a_stop_string_ends_the_session() -> None:
    session = ScriptedSession("aE", "ND", "never", finish=False)
    single = choice(0, session, stops=("END",))
    got = await events_of(single.events())
    assert texts(got) == {0: "a"}
    assert got[-1] == ChoiceFinished(0, "stop")
    assert session.closed


async def test_the_accepted_part_of_a_prediction_is_counted() -> None:
    single = choice(0, ScriptedSession("abc"), prediction="abx")
    await events_of(single.events())
    assert sum(single.prediction_tokens) > 0


async def test_choices_are_merged_and_run_side_by_side_up_to_a_limit() -> None:
    ScriptedSession.most = 0
    choices = [choice(number, ScriptedSession("ab", "c")) for number in range(SIDE_BY_SIDE + 3)]
    got = await events_of(merge_events(choices))
    assert texts(got) == dict.fromkeys(range(len(choices)), "abc")
    assert sum(isinstance(event, ChoiceFinished) for event in got) == len(choices)
    assert ScriptedSession.most == SIDE_BY_SIDE


async def test_the_first_failure_ends_all_choices() -> None:
    sessions = [ScriptedSession("a", finish=False), ScriptedSession("b", finish=False, error=Unavailable("gone"))]
    with pytest.raises(Unavailable):
        await events_of(merge_events([choice(number, session) for number, session in enumerate(sessions)]))
    assert all(session.closed for session in sessions)


async def test_closing_cancels_all_sessions() -> None:
    sessions = [ScriptedSession("a", finish=False) for _ in range(3)]
    events = merge_events([choice(number, session) for number, session in enumerate(sessions)])
    async with aclosing(events):
        await anext(events)
    assert ScriptedSession.running == 0


async def test_choices_wait_for_a_client_that_does_not_read() -> None:
    sessions = [ScriptedSession(*"ab" * MAX_UNREAD) for _ in range(2)]
    choices = [choice(number, session) for number, session in enumerate(sessions)]
    async with aclosing(merge_events(choices)) as batches:
        await anext(batches)
        for _ in range(20 * MAX_UNREAD):
            await asyncio.sleep(0)
        assert not any(session.closed for session in sessions), "each has twice as many events as may be unread"
        read = [batch async for batch in batches]
    assert all(session.closed for session in sessions)
    assert len(read) == 4 * MAX_UNREAD - 1
