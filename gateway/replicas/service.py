"""What makes a gateway a replica: its directory entry, its endpoint for other replicas, and its links to them."""

from __future__ import annotations

import asyncio

from gateway.agents.link import AgentLink
from gateway.agents.registry import AgentRegistry
from gateway.limits.shared_rates import SharedRateStore
from gateway.limits.shared_spend import SharedSpendReservations
from gateway.observability.metrics import Metrics
from gateway.replicas.directory import Directory
from gateway.replicas.endpoint import ReplicaEndpoint
from gateway.replicas.handshake import Handshake
from gateway.replicas.remote_agents import RemoteAgents
from gateway.replicas.shared_tickets import SharedTickets
from gateway.settings import GatewaySettings
from gateway.storage.shared_store import SharedStore


class Replicas:
    """Use between start() and stop(). Raises ValueError for a URL or a secret that cannot be used."""

    def __init__(self, settings: GatewaySettings, agents: AgentRegistry, metrics: Metrics) -> None:
        self._agents = agents
        self._metrics = metrics
        self._per_owner = settings.max_agents_per_owner
        self._handshake = Handshake(settings.replica_secret)
        self._store = SharedStore(settings.redis, metrics.shared_store)
        self.rates = SharedRateStore(self._store)
        self.reservations = SharedSpendReservations(self._store)
        self.tickets = SharedTickets(self._store)
        self._endpoint = ReplicaEndpoint(
            settings.replica_host, settings.replica_port, settings.advertise, self._handshake, agents, metrics
        )
        self._directory: Directory | None = None
        self._remote: RemoteAgents | None = None
        self._renewing: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Raises OSError if the replica port cannot be listened on. The store need not be reachable yet."""
        await self._endpoint.open()
        self._directory = Directory(self._store, self._endpoint.address, self._per_owner, self._on_attached)
        self._remote = RemoteAgents(self._directory, self._handshake, self._agents, self._metrics)
        self._agents.remote = self._remote
        self._renewing = [
            asyncio.create_task(self._directory.run(), name="lease"),
            asyncio.create_task(self.reservations.run(), name="spend reservations"),
        ]

    async def announce(self, agent: AgentLink) -> bool:
        """False if its owner has as many agents as are allowed, at all replicas together."""
        return self._directory is None or await self._directory.announce(agent)

    def withdraw(self, agent: AgentLink) -> None:
        if self._directory:
            self._directory.withdraw(agent)

    async def leave(self) -> None:
        """Give the lease back: no replica requests slots here any more; granted ones stay."""
        if self._directory:
            await self._directory.leave()

    async def stop(self) -> None:
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)
        await self.leave()
        if self._directory:
            await self._directory.stop()
        if self._remote:
            await self._remote.stop()
        await self._endpoint.close()
        await self.rates.close()
        await self.reservations.close()
        await self._store.close()

    def _on_attached(self, keys: list[str]) -> None:
        if self._remote:
            self._remote.on_attached(keys)
