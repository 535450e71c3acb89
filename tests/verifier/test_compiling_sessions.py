"""Messages of sessions whose grammars are being compiled: held in order, bounded, and dropped with their link."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgedraft.wire import TOO_MANY, AgentChanged, Close, Draft, Open, Sampling, WireError
from tests.support.waiting import until
from verifier.compiling_sessions import MAX_HELD, CompilingSessions, EngineMessage

PREPARED = object()
DRAFT = Draft(1, 1, 0, 1, [5], [0], b"\0")


def grammar(session: int) -> Open:
    return Open(session, [1], Sampling(grammar="start: /a/"), 4)


class Around:
    """A compiler that runs until it is released, and what was posted."""

    def __init__(self, max_sessions: int = 4) -> None:
        self.posted: list[EngineMessage] = []
        self.release = threading.Event()

        def compile_grammar(sampling: Sampling, share: str) -> object:
            self.release.wait(5)
            return PREPARED

        self.prepared: list[object] = []
        self.sessions = CompilingSessions(compile_grammar, ThreadPoolExecutor(max_sessions), self._post, max_sessions)

    def _post(self, message: EngineMessage, prepared: object) -> None:
        self.posted.append(message)
        self.prepared.append(prepared)


async def test_messages_of_a_session_follow_its_grammar_in_order() -> None:
    around = Around()
    plain = Open(2, [1], Sampling(), 4)
    later: list[EngineMessage] = [DRAFT, AgentChanged(1, "laptop"), Close(1)]
    for message in (grammar(1), *later, plain):
        around.sessions.take(message)
    assert around.posted == [plain], "other sessions do not wait"
    assert len(around.sessions) == 1
    around.release.set()
    await until(lambda: not len(around.sessions))
    assert around.posted == [plain, grammar(1), *later]
    assert around.prepared == [None, PREPARED, *[None] * len(later)], "only its own Open gets what was compiled"
    around.sessions.take(DRAFT)
    assert around.posted[-1] == DRAFT


async def test_held_messages_are_bounded_and_further_drafts_dropped() -> None:
    around = Around()
    around.sessions.take(grammar(1))
    for _ in range(MAX_HELD + 9):
        around.sessions.take(DRAFT)
    with pytest.raises(WireError) as full:
        around.sessions.take(AgentChanged(1, "laptop"))
    assert full.value.code == TOO_MANY
    around.release.set()
    await until(lambda: around.posted)
    assert len(around.posted) == MAX_HELD


async def test_sessions_that_compile_are_bounded() -> None:
    around = Around(max_sessions=2)
    for number in (1, 2):
        around.sessions.take(grammar(number))
    with pytest.raises(WireError) as full:
        around.sessions.take(grammar(3))
    assert full.value.code == TOO_MANY
    around.release.set()


async def test_what_is_held_ends_with_the_link() -> None:
    around = Around()
    around.sessions.take(grammar(1))
    tasks = list(around.sessions._tasks)
    around.sessions.cancel()
    around.release.set()
    await until(lambda: all(task.done() for task in tasks))
    assert not around.posted
