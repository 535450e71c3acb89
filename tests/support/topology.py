"""The complete service as processes: two gateways, a Valkey, a PostgreSQL, two verifiers and three agents.

It is `edgedraft up`'s fleet, with a relay between each agent and its gateway, which can be cut and pointed elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgedraft.local.fleet import Fleet, replica_environment
from edgedraft.local.processes import ManagedProcess, Supervisor
from edgedraft.local.valkey import Valkey
from loadtest.metrics import open_sessions, read_metrics
from tests.support.databases import new_postgres, running_postgres
from tests.support.partition import Partition

KEY = "topology-key"
MODEL = "smollm2-135m-instruct"
GATEWAYS, VERIFIERS, AGENTS = 2, 2, 3

_VERIFIER = ("--threads", "1", "--dtype", "float32", "--kv-tokens", "8192", "--max-sessions", "64")
# Starting a verifier while the other one serves slows both down; timeouts must not expire because of it.
_GATEWAY = ("--drain-grace", "600", "--open-timeout", "600", "--silence-timeout", "120")
_DRAFTING = ("--threads", "1", "--no-past-outputs", "--no-polite")
_REPEATING = (*_DRAFTING, "--draft-model", "none")  # loads at once


@dataclass
class Topology:
    """`database` is the URL of the gateways' PostgreSQL."""

    fleet: Fleet
    links: list[Partition]  # each agent's
    database: str

    def attached(self) -> int:
        """Agents attached to gateways, all together."""
        return sum(int(read_metrics(child.address)["edgedraft_gateway_agents"]) for child in self.fleet.gateways)

    def has_all_verifiers(self) -> bool:
        """Whether every gateway is connected to all verifiers."""
        if not all(child.address for child in self.fleet.gateways):  # one is being started again
            return False
        try:
            connected = [read_metrics(child.address)["edgedraft_gateway_verifiers"] for child in self.fleet.gateways]
        except OSError:  # so is one here
            return False
        return all(count == VERIFIERS for count in connected)

    def open(self) -> dict[str, float]:
        """What is still in use: open sessions of any kind, and KV cache tokens that are neither free nor evictable."""
        return {
            f"{child.address} {child.arguments[0]} {what}": value
            for child in (*self.fleet.gateways, *self.fleet.verifiers)
            for what, value in open_sessions(child.arguments[0], child.address).items()
            if value
        }

    def until_attached(self, agents: int = AGENTS, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while (found := self.attached()) != agents:
            assert time.monotonic() < deadline, f"{found} agents are attached and not {agents}"
            time.sleep(0.1)

    def point(self, gateway: int, links: list[int] | None = None) -> None:
        """New connections of these agents, or of all, go to that gateway."""
        for index in range(len(self.links)) if links is None else links:
            self.links[index].point(port_of(self.fleet.gateways[gateway]))


def port_of(child: ManagedProcess) -> int:
    return urlsplit(child.address).port or 0


@contextmanager
def running(folder: Path) -> Iterator[Topology]:
    """Start everything and wait until it is ready; the processes' logs go to `folder`."""
    with ExitStack() as until_the_end:
        enter = until_the_end.enter_context
        database = new_postgres(enter(running_postgres()))
        env = replica_environment(enter(Valkey()).url, database)
        stack = enter(Supervisor(KEY, folder, env=env))
        fleet = Fleet.start(stack, GATEWAYS, VERIFIERS, verifier_flags=_VERIFIER, gateway_flags=_GATEWAY)
        links = [enter(Partition(port_of(fleet.gateways[index % GATEWAYS]))) for index in range(AGENTS)]
        topology = Topology(fleet, links, database)

        def through(index: int) -> str:
            return f"http://127.0.0.1:{links[index].port}"

        fleet.attach_agents(1, _DRAFTING, through, "agent")
        fleet.attach_agents(AGENTS - 1, _REPEATING, through, "agent")
        topology.until_attached()
        yield topology
