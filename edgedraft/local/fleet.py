"""Several gateways, verifiers and agents on this machine as one service, started together.

A single process is processes.py's. The caller provides the database and the Redis that gateways share.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from edgedraft.local.processes import ManagedProcess, Supervisor


@dataclass
class Fleet:
    """The running processes. Each gateway connects to all verifiers; agents are assigned to gateways in turn."""

    supervisor: Supervisor
    verifiers: list[ManagedProcess] = field(default_factory=list)
    gateways: list[ManagedProcess] = field(default_factory=list)
    agents: list[ManagedProcess] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        stack: Supervisor,
        gateways: int,
        verifiers: int,
        *,
        port: int = 0,
        verifier_flags: Sequence[str] = (),
        gateway_flags: Sequence[str] = (),
    ) -> Self:
        """Starts verifiers and gateways, on ports from `port` up or on free ones if it is 0. Raises StartError."""
        fleet = cls(stack)
        fleet.verifiers = [stack.launch_verifier("--port", "0", *verifier_flags) for _ in range(verifiers)]
        urls = [stack.wait_ready(child) for child in fleet.verifiers]
        for index in range(gateways):
            own = ("--port", str(port + index if port else 0))
            fleet.gateways.append(stack.start_gateway(*urls, flags=(*own, *gateway_flags)))
        for url in fleet.urls:
            stack.wait_for_verifier(url)
        return fleet

    @property
    def urls(self) -> list[str]:
        return [child.address for child in self.gateways]

    def attach_agents(
        self, agents: int, flags: Sequence[str] = (), url_of: Callable[[int], str] | None = None, name_prefix: str = ""
    ) -> None:
        """Starts `agents` more agents. `url_of` gives the URL for an index; names are `name_prefix` and a number."""
        first = len(self.agents)
        for index in range(first, first + agents):
            url = url_of(index) if url_of else self.urls[index % len(self.urls)]
            name = ("--name", f"{name_prefix}-{index + 1}") if name_prefix else ()
            self.agents.append(self.supervisor.launch("attach", url, *name, *flags))
        for child in self.agents[first:]:
            self.supervisor.wait_ready(child)


def replica_environment(redis: str, database: str) -> dict[str, str]:
    """Environment of gateways that share a Redis and a database. Not flags, which show passwords in process lists."""
    return {
        "EDGEDRAFT_REDIS": redis,
        "EDGEDRAFT_REPLICA_SECRET": secrets.token_urlsafe(24),
        "EDGEDRAFT_REPLICA_HOST": "127.0.0.1",
        "EDGEDRAFT_REPLICA_PORT": "0",
        "EDGEDRAFT_ADVERTISE": "",
        "EDGEDRAFT_DATABASE": database,
    }
