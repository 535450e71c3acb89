"""What one gateway has of being a replica: its entry in the directory, its door for the others, its links to them."""

from __future__ import annotations

import asyncio

from gateway.agents.link import AgentLink
from gateway.agents.registry import AgentRegistry
from gateway.limits.shared_rates import SharedRateStore
from gateway.observability.metrics import Metrics
from gateway.replicas.directory import Directory
from gateway.replicas.endpoint import ReplicaEndpoint
from gateway.replicas.handshake import Handshake
from gateway.replicas.remote_agents import RemoteAgents
from gateway.settings import GatewaySettings
from gateway.storage.shared_store import SharedStore


class Replicas:
    """Use between start() and stop(). Raises ValueError for a URL or a secret that cannot be used."""

    def __init__(self, settings: GatewaySettings, agents: AgentRegistry, metrics: Metrics) -> None:
        self._agents = agents
        self._metrics = metrics
        self._per_owner = settings.max_agents_per_owner
        self._prover = Handshake(settings.replica_secret)
        self._store = SharedStore(settings.redis, metrics.shared_store)
        self.rates = SharedRateStore(self._store)
        self._endpoint = ReplicaEndpoint(
            settings.replica_host, settings.replica_port, settings.advertise, self._prover, agents, metrics
        )
        self._directory: Directory | None = None
        self._elsewhere: RemoteAgents | None = None
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError when the replica port cannot be listened on; a store that is away may come later."""
        await self._endpoint.open()
        self._directory = Directory(self._store, self._endpoint.address, self._per_owner, self._attached)
        self._elsewhere = RemoteAgents(self._directory, self._prover, self._agents, self._metrics)
        self._agents.remote = self._elsewhere
        self._beating = asyncio.create_task(self._directory.run(), name="lease")

    async def announce(self, agent: AgentLink) -> bool:
        """False when its owner has as many agents as are allowed, at all replicas together."""
        return self._directory is None or await self._directory.announce(agent)

    def withdraw(self, agent: AgentLink) -> None:
        if self._directory:
            self._directory.withdraw(agent)

    async def leave(self) -> None:
        """From now on nobody looks for agents here; those that have seats keep them."""
        if self._directory:
            await self._directory.leave()

    async def stop(self) -> None:
        if self._beating:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        await self.leave()
        if self._directory:
            await self._directory.stop()
        if self._elsewhere:
            await self._elsewhere.stop()
        await self._endpoint.close()
        await self.rates.close()
        await self._store.close()

    def _attached(self, keys: list[str]) -> None:
        if self._elsewhere:
            self._elsewhere.attached(keys)
