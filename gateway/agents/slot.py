"""Interfaces between a session and an agent, whether the agent is attached to this replica or to another one."""

from __future__ import annotations

from typing import Protocol

from edgedraft.wire import Commit, Draft, Open
from gateway.accounts import Owner


class AgentListener(Protocol):
    """Receives what an agent sends for one session. Called from the event loop; must not block."""

    def on_draft(self, draft: Draft) -> None:
        """Raises tree.DraftViolation for what no correct agent sends."""
        ...

    def on_agent_lost(self) -> None: ...


class AgentSlot(Protocol):
    """One session's slot at an agent. `identity` names the agent to verifiers."""

    @property
    def identity(self) -> str: ...

    @property
    def owner(self) -> Owner: ...

    def restart(self, message: Open) -> None:
        """Have the agent draft in a new epoch, after the tokens that `message` says are committed."""
        ...

    def seconds(self) -> float:
        """The session's share of the agent's time so far; sessions that are open at once share it equally.

        An agent that is idle is counted all the same, so this is an upper bound.
        """
        ...

    def commit(self, commit: Commit) -> None: ...

    def close(self) -> None: ...


class AgentHost(Protocol):
    """An agent with a free slot, which `open` takes. `identity` names the agent to verifiers.

    `device` is one of edgedraft/devices.py.
    """

    @property
    def identity(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def owner(self) -> Owner: ...

    def open(self, listener: AgentListener, message: Open) -> AgentSlot: ...
