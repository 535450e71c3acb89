"""One agent's sessions: slots, what is sent to the agent, and shares of its time."""

from __future__ import annotations

import pytest
from msgspec import Struct

from edgedraft.tree import DraftViolation
from edgedraft.wire import (
    BAD_FRAME,
    FORBIDDEN,
    MAX_AGENT_TEXT,
    VIOLATION,
    Close,
    Commit,
    Draft,
    Hello,
    Open,
    Sampling,
    WireError,
    encode_frame,
)
from gateway.agents.link import AgentLink

OPEN = Open(1, [1, 2], Sampling(), 50, prediction=[3])
DRAFT = Draft(1, 1, 0, 1, [5], [0], b"\0")


class Listener:
    """A session that records its drafts; 99 is a token that it does not accept."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.lost = False

    def on_draft(self, draft: Draft) -> None:
        if 99 in draft.tokens:
            raise DraftViolation("no such token")
        self.drafts.append(draft)

    def on_agent_lost(self) -> None:
        self.lost = True


@pytest.fixture
async def link() -> AgentLink:
    return AgentLink("agent", "identity", ("default", "ann"), "f", 2)


async def sent(link: AgentLink) -> list[Struct]:
    return await link.outbox.next_batch()


async def test_a_reserved_slot_is_sent_to_the_agent_when_it_is_restarted(link: AgentLink) -> None:
    slot = link.reserve(Listener())
    assert (link.running, link.has_free_slot) == (1, True)
    link.open(Listener(), OPEN)
    assert not link.has_free_slot
    slot.restart(OPEN)
    slot.commit(Commit(9, 0, [7]))
    slot.close()
    slot.close()
    assert await sent(link) == [
        Open(2, [1, 2], Sampling(), 50, prediction=[3]),
        OPEN,
        Commit(1, 0, [7]),
        Close(1),
    ]


async def test_a_slot_that_the_agent_was_never_sent_is_closed_without_a_message(link: AgentLink) -> None:
    freed: list[int] = []
    link.on_slot_freed(lambda: freed.append(link.running))
    link.reserve(Listener()).close()
    assert freed == [0]
    link.open(Listener(), Open(1, [1] * (MAX_AGENT_TEXT + 1), Sampling(), 50)).close()
    link.open(Listener(), OPEN)
    assert [type(message) for message in await sent(link)] == [Open], "too long a text is not sent"


async def test_drafts_reach_their_session(link: AgentLink) -> None:
    listener = Listener()
    slot = link.open(listener, OPEN)
    await link.take_frame(encode_frame([DRAFT]))
    assert listener.drafts == [DRAFT]
    assert (link.stats.sessions, link.stats.drafted) == (1, 1)
    slot.close()
    await link.take_frame(encode_frame([DRAFT]))
    assert listener.drafts == [DRAFT], "a late draft is ignored"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Hello(3), BAD_FRAME),
        (Draft(3, 1, 0, 1, [5], [0], b"\0"), FORBIDDEN),
        (Draft(2, 1, 0, 1, [5], [0], b"\0"), FORBIDDEN),
        (Draft(1, 1, 0, 1, [99], [0], b"\0"), VIOLATION),
    ],
)
async def test_what_no_correct_agent_sends(link: AgentLink, message: Struct, code: int) -> None:
    link.open(Listener(), OPEN)
    link.reserve(Listener())
    with pytest.raises(WireError) as wrong:
        await link.take_frame(encode_frame([message]))
    assert wrong.value.code == code


async def test_sessions_share_the_agents_time_equally(link: AgentLink, monkeypatch: pytest.MonkeyPatch) -> None:
    now = link._clock._advanced_at
    monkeypatch.setattr("gateway.agents.link.time.monotonic", lambda: now)
    first = link.open(Listener(), OPEN)
    now += 2.0
    second = link.open(Listener(), OPEN)
    now += 4.0
    assert (first.seconds(), second.seconds()) == pytest.approx((4.0, 2.0))
    second.close()
    now += 1.0
    assert first.seconds() == pytest.approx(5.0)


async def test_a_lost_agent_loses_every_session_and_frees_no_slot(link: AgentLink) -> None:
    listeners = [Listener(), Listener()]
    link.open(listeners[0], OPEN)
    link.reserve(listeners[1])
    link.on_slot_freed(lambda: pytest.fail("no slot of a lost agent is free"))
    link.lost()
    assert all(listener.lost for listener in listeners)
    assert link.running == 0
