"""What a session needs of an agent, wherever that is attached: a desk to sit down at, and its seat there."""

from __future__ import annotations

from typing import Protocol

from edgedraft.wire import Commit, Draft, Open
from gateway.accounts import Owner


class AgentListener(Protocol):
    """A session, as an agent's link sees it. Called from the event loop; must not block."""

    def on_draft(self, draft: Draft) -> None:
        """Raises tree.Violation for what no correct agent sends."""
        ...

    def on_agent_lost(self) -> None: ...


class AgentSlot(Protocol):
    """One session's place at an agent. `agent` names that to verifiers."""

    @property
    def agent(self) -> str: ...

    @property
    def owner(self) -> Owner: ...

    def restart(self, message: Open) -> None:
        """The same session from a new place: the agent plants anew after what `message` says is committed."""
        ...

    def seconds(self) -> float:
        """The agent's time that was this session's: between its sessions it counts as divided equally.

        An agent that has nothing to do for them is counted all the same, so it is an upper bound.
        """
        ...

    def commit(self, commit: Commit) -> None: ...

    def close(self) -> None: ...


class AgentHost(Protocol):
    """An agent with room for one more session."""

    @property
    def identity(self) -> str: ...

    @property
    def owner(self) -> Owner: ...

    def open(self, listener: AgentListener, message: Open) -> AgentSlot: ...
