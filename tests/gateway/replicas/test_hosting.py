"""The host replica's sessions of another replica: slots by owner, relaying, and what it refuses."""

from __future__ import annotations

import pytest
from msgspec import Struct
from msgspec.structs import replace

from edgedraft.links.outbox import Outbox
from edgedraft.links.settings import REPLICA
from edgedraft.wire import FORBIDDEN, VIOLATION, Close, Commit, Draft, Open, Sampling, WireError, encode_frame
from gateway.agents.link import AgentLink
from gateway.agents.registry import AgentRegistry
from gateway.observability.metrics import Metrics
from gateway.replicas import hosting
from gateway.replicas.hosting import RemoteSessions
from gateway.replicas.messages import RequestSlot, SlotGranted, SlotQueued, SlotUsage

REQUEST = RequestSlot(1, "default", "ann", "f", 100)
OPEN = Open(1, [1, 2], Sampling(), 50)
DRAFT = Draft(1, 1, 0, 1, [5], [0], b"\0")


class Around:
    """A host with one agent of ann's, and what it sends to the requesting replica."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.registry = AgentRegistry(4, self.metrics)
        self.agent = AgentLink("agent", "identity", ("default", "ann"), "f", 1)
        self.outbox = Outbox(REPLICA)
        self.sessions = RemoteSessions(self.registry, self.metrics, self.outbox)

    async def sent(self) -> list[Struct]:
        return list(await self.outbox.next_batch())

    @property
    def open_sessions(self) -> float:
        return self.metrics.remote_sessions._value.get()


@pytest.fixture
async def around() -> Around:
    return Around()


async def test_a_request_is_queued_until_an_agent_of_its_owner_has_a_slot(around: Around) -> None:
    around.sessions.deliver([REQUEST, replace(REQUEST, session=2, owner="bob")])
    assert await around.sent() == [SlotQueued(1), SlotQueued(2)]
    around.registry.attach(around.agent)
    assert await around.sent() == [SlotGranted(1, "identity", 1, "other")]
    assert around.open_sessions == 1
    around.sessions.deliver([Close(1), Close(2)])
    assert (around.agent.running, around.open_sessions) == (0, 0)
    around.sessions.deliver([replace(REQUEST, session=3)])
    assert await around.sent() == [SlotGranted(3, "identity", 1, "other")]


async def test_a_session_is_relayed_in_both_directions(around: Around) -> None:
    around.registry.attach(around.agent)
    around.sessions.deliver([REQUEST, OPEN])
    await around.sent()
    await around.agent.take_frame(encode_frame([DRAFT]))
    drafted, usage = await around.sent()
    assert drafted == DRAFT
    assert isinstance(usage, SlotUsage)
    assert usage.running == 1
    around.sessions.deliver([Commit(1, 0, [5])])
    assert await around.agent.outbox.next_batch() == [OPEN, Commit(1, 0, [5])]
    around.registry.detach(around.agent)
    assert await around.sent() == [Close(1, reason="the agent has gone")]
    around.sessions.deliver([Commit(1, 1, [6]), Close(1)])
    assert around.open_sessions == 0


async def test_a_draft_is_checked_against_the_sessions_tree(around: Around) -> None:
    around.registry.attach(around.agent)
    around.sessions.deliver([REQUEST, OPEN])
    for wrong in (replace(DRAFT, tokens=[100]), replace(DRAFT, parents=[7])):
        with pytest.raises(WireError) as violation:
            await around.agent.take_frame(encode_frame([wrong]))
        assert violation.value.code == VIOLATION


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([REQUEST, REQUEST], FORBIDDEN),
        ([OPEN], FORBIDDEN),
        ([REQUEST, Commit(1, 0, [1])], FORBIDDEN),
        ([REQUEST, replace(REQUEST, session=2), replace(OPEN, session=2)], FORBIDDEN),
        ([REQUEST, OPEN, Commit(1, 5, [1])], VIOLATION),
    ],
)
async def test_what_no_correct_replica_sends(around: Around, messages: list, code: int) -> None:
    around.registry.attach(around.agent)
    with pytest.raises(WireError) as wrong:
        around.sessions.deliver(messages)
    assert wrong.value.code == code


async def test_sessions_are_bounded_and_all_end_with_the_link(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "MAX_REMOTE_SESSIONS", 2)
    around.registry.attach(around.agent)
    around.sessions.deliver([replace(REQUEST, session=number) for number in (1, 2, 3)])
    assert await around.sent() == [
        SlotGranted(1, "identity", 1, "other"),
        SlotQueued(2),
        Close(3, reason="too many sessions"),
    ]
    around.sessions.end_all()
    assert (around.agent.running, around.open_sessions) == (0, 0)
    assert not around.registry._waiting
