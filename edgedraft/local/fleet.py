"""Several gateways, verifiers and agents on this machine as one service: started together, each ready at the end.

A single process is stack.py's. Database and Redis that gateways share are the caller's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from edgedraft.local.processes import ManagedProcess, Supervisor


@dataclass
class Fleet:
    """What runs. Gateways know all verifiers; agents are dealt out to gateways one after the other."""

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
        """All but the agents. Gateways take ports from `port` up, or free ones if it is 0. Raises StartError."""
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
        self, agents: int, flags: Sequence[str] = (), at: Callable[[int], str] | None = None, named: str = ""
    ) -> None:
        """So many agents more, all ready. `at` gives the URL by which each goes; names are `named`, numbered."""
        first = len(self.agents)
        for index in range(first, first + agents):
            url = at(index) if at else self.urls[index % len(self.urls)]
            name = ("--name", f"{named}-{index + 1}") if named else ()
            self.agents.append(self.supervisor.launch("attach", url, "--key", self.supervisor.key, *name, *flags))
        for child in self.agents[first:]:
            self.supervisor.wait_ready(child)


def replica_environment(redis: str, database: str) -> dict[str, str]:
    """The environment that makes several gateways one service. In flags, others could read passwords."""
    return {
        "EDGEDRAFT_REDIS": redis,
        "EDGEDRAFT_REPLICA_SECRET": secrets.token_urlsafe(24),
        "EDGEDRAFT_REPLICA_HOST": "127.0.0.1",
        "EDGEDRAFT_REPLICA_PORT": "0",
        "EDGEDRAFT_ADVERTISE": "",
        "EDGEDRAFT_DATABASE": database,
    }
