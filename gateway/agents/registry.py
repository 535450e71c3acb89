"""Who drafts for whom: attached agents by owner, and the sessions of that owner that still have none.

A session is only ever offered to agents of its own owner. A session without an agent waits here while its text goes on,
and gets one when an agent attaches or has room again.
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

MOVE_SECONDS = 2.0  # over which agents that are told to move are spread; all at once would crowd another gateway


class WaitingSession(Protocol):
    """A session that wants an agent of its owner with its model's tokenizer."""

    @property
    def owner(self) -> Owner: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    def on_agent(self, agent: AgentHost) -> None:
        """Take a seat at this agent, which has room."""
        ...


class AgentSearch(Protocol):
    """Agents that are attached to other replicas."""

    def seek(self, seeker: WaitingSession) -> None:
        """Look there too, until the session leaves or is given an agent; then it leaves by the registry."""
        ...

    def leave(self, seeker: WaitingSession) -> None: ...


class AgentRegistry:
    """The agents attached to this gateway, and the way to those `elsewhere`, which come second."""

    remote: AgentSearch | None = None

    def __init__(self, max_per_owner: int, metrics: Metrics) -> None:
        self._max_per_owner = max_per_owner
        self._metrics = metrics
        self._agents: defaultdict[Owner, list[AgentLink]] = defaultdict(list)
        self._seekers: defaultdict[Owner, dict[WaitingSession, None]] = defaultdict(dict)

    def attached(self, owner: Owner | None = None) -> list[AgentLink]:
        """One owner's agents, or everybody's."""
        if owner is not None:
            return list(self._agents.get(owner, ()))
        return [agent for agents in self._agents.values() for agent in agents]

    def attach(self, agent: AgentLink) -> None:
        """Raises WireError TOO_MANY when the owner has as many agents as are allowed."""
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
        """Tell every agent to attach elsewhere, one after the other."""
        agents = self.attached()
        for agent in agents:
            agent.request_move()
            await asyncio.sleep(MOVE_SECONDS / len(agents))

    def seek(self, seeker: WaitingSession) -> None:
        """Pair the session with an agent, now or when there is one."""
        self.wait(seeker)
        if self.remote and seeker in self._seekers.get(seeker.owner, ()):
            self.remote.seek(seeker)

    def wait(self, seeker: WaitingSession) -> None:
        """Pair the session with an agent of this gateway, now or when there is one."""
        self._seekers[seeker.owner][seeker] = None
        self._match(seeker.owner)

    def leave(self, seeker: WaitingSession) -> None:
        """The session wants no agent any more."""
        if self.remote:
            self.remote.leave(seeker)
        seekers = self._seekers.get(seeker.owner)
        if seekers is None:
            return
        seekers.pop(seeker, None)
        if not seekers:
            del self._seekers[seeker.owner]

    def _match(self, owner: Owner) -> None:
        for seeker in list(self._seekers.get(owner, ())):
            fitting = [
                agent
                for agent in self._agents.get(owner, ())
                if agent.has_free_slot and agent.fingerprint == seeker.fingerprint
            ]
            if fitting:
                self.leave(seeker)
                seeker.on_agent(min(fitting, key=lambda agent: agent.running / agent.max_sessions))
