"""Pairs sessions with agents: the attached agents by owner, and the sessions of each owner that wait for one.

A session is only ever offered to agents of its own owner. While it waits for an agent, the verifier decodes it alone;
it is paired when an agent attaches or has a free slot again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Protocol

from edgedraft.wire import TOO_MANY, WireError
from gateway.accounts import Owner
from gateway.agents.link import AgentLink
from gateway.agents.slot import AgentHost
from gateway.observability.metrics import Metrics

MOVE_SECONDS = 2.0  # over which the requests to move are spread, so that other gateways do not get all agents at once


class WaitingSession(Protocol):
    """A session that wants an agent of its owner with its model's tokenizer."""

    @property
    def owner(self) -> Owner: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def on_agent(self, agent: AgentHost) -> None:
        """Take a slot at this agent, which has a free one."""
        ...


class AgentSearch(Protocol):
    """Searches for agents that are attached to other replicas."""

    def seek(self, session: WaitingSession) -> None:
        """Search until the session leaves. If an agent is found, the session leaves the registry and is given it."""
        ...

    def leave(self, session: WaitingSession) -> None: ...


class AgentRegistry:
    """The agents attached to this gateway, which come first, and the search for those of other replicas (`remote`)."""

    remote: AgentSearch | None = None

    def __init__(self, max_per_owner: int, metrics: Metrics) -> None:
        self._max_per_owner = max_per_owner
        self._metrics = metrics
        self._agents: defaultdict[Owner, list[AgentLink]] = defaultdict(list)
        self._waiting: defaultdict[Owner, dict[WaitingSession, None]] = defaultdict(dict)

    def attached(self, owner: Owner | None = None) -> list[AgentLink]:
        """One owner's agents, or all."""
        if owner is not None:
            return list(self._agents.get(owner, ()))
        return [agent for agents in self._agents.values() for agent in agents]

    def attach(self, agent: AgentLink) -> None:
        """Raises WireError TOO_MANY if the owner has as many agents as are allowed."""
        if len(self._agents.get(agent.owner, ())) >= self._max_per_owner:
            raise WireError(TOO_MANY, f"{self._max_per_owner} agents of this owner are attached already")
        self._agents[agent.owner].append(agent)
        self._metrics.agents.inc()
        agent.on_slot_freed(lambda: self._match(agent.owner))
        self._match(agent.owner)

    def detach(self, agent: AgentLink) -> None:
        self._agents[agent.owner].remove(agent)
        if not self._agents[agent.owner]:
            del self._agents[agent.owner]
        self._metrics.agents.dec()
        agent.lost()

    async def move_all(self) -> None:
        """Have every agent attach to another gateway, one after the other."""
        agents = self.attached()
        for agent in agents:
            agent.request_move()
            await asyncio.sleep(MOVE_SECONDS / len(agents))

    def seek(self, session: WaitingSession) -> None:
        """Pair the session with an agent of any replica, now or later."""
        self.wait(session)
        if self.remote and session in self._waiting.get(session.owner, ()):
            self.remote.seek(session)

    def wait(self, session: WaitingSession) -> None:
        """Pair the session with an agent of this gateway, now or later."""
        self._waiting[session.owner][session] = None
        self._match(session.owner)

    def leave(self, session: WaitingSession) -> None:
        """The session wants no agent any more."""
        if self.remote:
            self.remote.leave(session)
        waiting = self._waiting.get(session.owner)
        if waiting is None:
            return
        waiting.pop(session, None)
        if not waiting:
            del self._waiting[session.owner]

    def _match(self, owner: Owner) -> None:
        for session in list(self._waiting.get(owner, ())):
            usable = [
                agent
                for agent in self._agents.get(owner, ())
                if agent.has_free_slot and agent.fingerprint == session.fingerprint
            ]
            if usable:
                self.leave(session)
                session.on_agent(min(usable, key=lambda agent: agent.running / agent.max_sessions))
