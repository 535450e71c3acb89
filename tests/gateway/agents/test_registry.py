"""Pairing: sessions with agents of their owner and tokenizer, now or when a slot is freed."""

from __future__ import annotations

import pytest

from edgedraft.wire import MOVE, TOO_MANY, Open, Sampling, WireError
from gateway.accounts import Owner
from gateway.agents.link import AgentLink, LocalSlot
from gateway.agents.registry import AgentRegistry, WaitingSession
from gateway.agents.slot import AgentHost
from gateway.observability.metrics import Metrics

ANN: Owner = ("default", "ann")
OPEN = Open(1, [1, 2], Sampling(), 50)


def agent(owner: Owner = ANN, slots: int = 1, fingerprint: str = "f") -> AgentLink:
    return AgentLink("agent", "identity", owner, fingerprint, slots)


class Waiting:
    """A session that takes the slot it is offered."""

    vocab_size = 100

    def __init__(self, owner: Owner = ANN, fingerprint: str = "f") -> None:
        self.owner, self.fingerprint = owner, fingerprint
        self.agent: AgentHost | None = None
        self.slot: LocalSlot | None = None

    def on_agent(self, agent: AgentHost) -> None:
        assert isinstance(agent, AgentLink)
        self.agent, self.slot = agent, agent.open(self, OPEN)

    def on_draft(self, draft: object) -> None: ...

    def on_agent_lost(self) -> None:
        self.agent = self.slot = None


class Search:
    """An AgentSearch that records what is sought."""

    def __init__(self) -> None:
        self.sought: list[WaitingSession] = []

    def seek(self, session: WaitingSession) -> None:
        self.sought.append(session)

    def leave(self, session: WaitingSession) -> None:
        if session in self.sought:
            self.sought.remove(session)


@pytest.fixture
def registry() -> AgentRegistry:
    return AgentRegistry(2, Metrics())


async def test_a_session_gets_the_least_loaded_agent_of_its_owner_and_tokenizer(registry: AgentRegistry) -> None:
    small, large = agent(slots=2), agent(slots=4)
    for attached in (small, large, agent(("default", "bob")), agent(("acme", "ann"), fingerprint="f")):
        registry.attach(attached)
    got = []
    for _ in range(6):
        session = Waiting()
        registry.seek(session)
        got.append(session.agent)
    assert (got.count(small), got.count(large)) == (2, 4)
    other_tokenizer = Waiting(fingerprint="g")
    registry.seek(other_tokenizer)
    assert other_tokenizer.agent is None


async def test_a_waiting_session_is_paired_when_an_agent_attaches_or_a_slot_is_freed(registry: AgentRegistry) -> None:
    first, second, third = Waiting(), Waiting(), Waiting()
    for session in (first, second, third):
        registry.seek(session)
    assert first.agent is None
    attached = agent()
    registry.attach(attached)
    assert first.agent is attached
    assert second.agent is None
    registry.leave(second)
    assert first.slot
    first.slot.close()
    assert second.agent is None
    assert third.agent is attached


async def test_an_owner_has_a_bounded_number_of_agents(registry: AgentRegistry) -> None:
    first = agent()
    registry.attach(first)
    registry.attach(agent())
    with pytest.raises(WireError) as refused:
        registry.attach(agent())
    assert refused.value.code == TOO_MANY
    registry.attach(agent(("default", "bob")))
    registry.detach(first)
    registry.attach(agent())
    assert len(registry.attached(ANN)) == 2
    assert len(registry.attached()) == 3


async def test_detaching_loses_the_agents_sessions(registry: AgentRegistry) -> None:
    attached, session = agent(), Waiting()
    registry.attach(attached)
    registry.seek(session)
    assert session.agent
    registry.detach(attached)
    assert session.agent is None
    assert registry.attached(ANN) == []


async def test_other_replicas_are_searched_only_without_an_own_agent(registry: AgentRegistry) -> None:
    search = registry.remote = Search()
    waiting, paired, own_only = Waiting(), Waiting(("default", "bob")), Waiting()
    registry.attach(agent(("default", "bob")))
    for session in (waiting, paired):
        registry.seek(session)
    registry.wait(own_only)
    assert search.sought == [waiting]
    registry.leave(waiting)
    assert search.sought == []


async def test_all_agents_are_asked_to_move(registry: AgentRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.agents.registry.MOVE_SECONDS", 0.0)
    agents = [agent(), agent()]
    for attached in agents:
        registry.attach(attached)
    await registry.move_all()
    for attached in agents:
        with pytest.raises(WireError) as moved:
            await attached.move_requested()
        assert moved.value.code == MOVE
