"""The requesting replica's search for agents at host replicas, for sessions that have no agent here.

A session requests a slot at the replicas that the directory lists, one after the other, and stays queued wherever none
is free; the first slot that is granted is taken. Without one it waits until the directory reports a new agent. Whatever
fails, the session goes on without an agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

from websockets.exceptions import WebSocketException

from edgedraft.links.transport import TransportClosed
from edgedraft.observability.logs import event
from edgedraft.wire import WireError
from gateway.agents.registry import AgentRegistry, WaitingSession
from gateway.observability.metrics import Metrics
from gateway.replicas.directory import Directory, owner_key
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.link import RemoteSlot, ReplicaLink, connect
from gateway.storage.shared_store import StoreDown

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0  # that a replica has to answer, before a slot is requested at the next one too
RETRY_SECONDS = 2.0  # until a replica that could not be reached is tried again


class Unreachable(Exception):
    """There is no link to that replica now."""


class RemoteAgents:
    """registry.AgentSearch over the links to other replicas. Call `stop` once."""

    def __init__(self, directory: Directory, handshake: Handshake, agents: AgentRegistry, metrics: Metrics) -> None:
        self._directory = directory
        self._handshake = handshake
        self._agents = agents
        self._metrics = metrics
        self._searches: defaultdict[str, dict[WaitingSession, RemoteSearch]] = defaultdict(dict)
        self._links: dict[str, ReplicaLink] = {}
        self._connecting: dict[str, asyncio.Task[ReplicaLink]] = {}
        self._not_before: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def seek(self, session: WaitingSession) -> None:
        search = self._searches[owner_key(session.owner)][session] = RemoteSearch(self, session)
        search.start()

    def leave(self, session: WaitingSession) -> None:
        key = owner_key(session.owner)
        searches = self._searches.get(key)
        if searches and (search := searches.pop(session, None)):
            search.end()
            if not searches:
                del self._searches[key]

    def on_attached(self, keys: list[str]) -> None:
        """Agents of the owners with these keys were attached to some replica."""
        for key in keys:
            for search in self._searches.get(key, {}).values():
                search.start()

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._connecting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def find_hosts(self, session: WaitingSession) -> list[str]:
        """Addresses of replicas with usable agents, first those with few sessions of this replica per slot.

        Raises StoreDown.
        """
        slots = await self._directory.find(session.owner, session.fingerprint)

        def own_load(address: str) -> float:
            link = self._links.get(address)
            return link.sessions / max(1, slots[address]) if link else 0.0

        return sorted(slots, key=own_load)

    async def get_link(self, address: str) -> ReplicaLink:
        """The link to that replica, connected now if there is none. Raises Unreachable."""
        if (link := self._links.get(address)) and not link.ended:
            return link
        if asyncio.get_running_loop().time() < self._not_before.get(address, 0.0):
            raise Unreachable
        if address not in self._connecting:
            self._connecting[address] = task = asyncio.create_task(self._connect(address))
            # Its exception counts as retrieved even if every search that waited for it has ended.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._connecting[address])

    def assign_slot(self, session: WaitingSession, slot: RemoteSlot) -> None:
        """A slot was granted: the session takes it and ends its other requests."""
        self._agents.leave(session)
        session.on_agent(slot)

    async def _connect(self, address: str) -> ReplicaLink:
        try:
            link = self._links[address] = ReplicaLink(address, await connect(address, self._handshake))
        except (OSError, TimeoutError, WebSocketException, HandshakeFailed) as error:
            now = asyncio.get_running_loop().time()
            self._not_before = {other: until for other, until in self._not_before.items() if until > now}
            self._not_before[address] = now + RETRY_SECONDS
            event(log, "replica not reached", level=logging.WARNING, address=address, reason=str(error))
            raise Unreachable from error
        finally:
            del self._connecting[address]
        self._not_before.pop(address, None)
        task = asyncio.create_task(self._run(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return link

    async def _run(self, link: ReplicaLink) -> None:
        event(log, "replica linked", address=link.address)
        self._metrics.replicas.inc()
        try:
            await link.run()
        except (TransportClosed, WireError) as error:
            event(log, "replica lost", level=logging.WARNING, address=link.address, reason=str(error))
        finally:
            self._metrics.replicas.dec()
            if self._links.get(link.address) is link:
                del self._links[link.address]


class RemoteSearch:
    """One session's search; a link.SlotRequester at every replica where a slot was requested."""

    def __init__(self, agents: RemoteAgents, session: WaitingSession) -> None:
        self._agents = agents
        self._session = session
        self._requests: dict[str, RemoteSlot] = {}  # by the replica's address
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._outdated = False

    def start(self) -> None:
        """Search now, or once more after the search that is running."""
        self._outdated = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._search())

    def end(self) -> None:
        """Withdraw all requests."""
        if self._task:
            self._task.cancel()
        if self._retry:
            self._retry.cancel()
        for slot in self._requests.values():
            slot.close()
        self._requests.clear()

    def on_queued(self) -> None:
        self._answered.set()

    def on_unavailable(self, slot: RemoteSlot) -> None:
        self._forget(slot)
        self._answered.set()
        self._retry_later()

    def on_granted(self, slot: RemoteSlot) -> None:
        self._forget(slot)
        self._agents.assign_slot(self._session, slot)

    async def _search(self) -> None:
        while self._outdated:
            self._outdated = False
            try:
                addresses = await self._agents.find_hosts(self._session)
            except StoreDown:
                self._retry_later()
                return
            for address in addresses:
                if address not in self._requests:
                    await self._request(address)

    async def _request(self, address: str) -> None:
        """Request a slot and wait for the replica's answer; a granted slot ends the search."""
        try:
            link = await self._agents.get_link(address)
        except Unreachable:
            self._retry_later()
            return
        self._answered.clear()
        self._requests[address] = link.request_slot(self, self._session)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answered.wait()

    def _retry_later(self) -> None:
        """For failures whose end the directory does not report."""
        if self._retry:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self.start)

    def _forget(self, slot: RemoteSlot) -> None:
        self._requests = {address: other for address, other in self._requests.items() if other is not slot}
