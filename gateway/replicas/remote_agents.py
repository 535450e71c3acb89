"""Finding agents at other replicas for sessions that have none here.

A session asks those that the directory names, one after the other, and stands in line wherever there was no room; the
first seat that is granted is taken. Where none is to be had it waits until the directory tells of one. Whatever is lost
on the way, the session goes on without an agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

from websockets.exceptions import ConnectionClosed, WebSocketException

from edgedraft.links.outbox import TooSlow
from edgedraft.observability.logs import event
from edgedraft.wire import WireError
from gateway.agents.registry import AgentRegistry, WaitingSession
from gateway.observability.metrics import Metrics
from gateway.replicas.directory import Directory, owner_key
from gateway.replicas.handshake import Handshake, HandshakeFailed
from gateway.replicas.link import RemoteSlot, ReplicaLink, dial
from gateway.storage.shared_store import StoreDown

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0  # for an answer, before the next replica is asked as well
RETRY_SECONDS = 2.0  # until a replica that was not reached is tried again


class Unreachable(Exception):
    """There is no link to that replica now."""


class RemoteAgents:
    """agents.Elsewhere over the links to other replicas. `stop` it once."""

    def __init__(self, directory: Directory, prover: Handshake, agents: AgentRegistry, metrics: Metrics) -> None:
        self._directory = directory
        self._prover = prover
        self._agents = agents
        self._metrics = metrics
        self._searches: defaultdict[str, dict[WaitingSession, RemoteSearch]] = defaultdict(dict)
        self._links: dict[str, ReplicaLink] = {}
        self._dialling: dict[str, asyncio.Task[ReplicaLink]] = {}
        self._not_before: dict[str, float] = {}
        self._running: set[asyncio.Task[None]] = set()

    def seek(self, seeker: WaitingSession) -> None:
        search = self._searches[owner_key(seeker.owner)][seeker] = RemoteSearch(self, seeker)
        search.start()

    def leave(self, seeker: WaitingSession) -> None:
        key = owner_key(seeker.owner)
        searches = self._searches.get(key)
        if searches and (search := searches.pop(seeker, None)):
            search.end()
            if not searches:
                del self._searches[key]

    def attached(self, keys: list[str]) -> None:
        """Agents of these owners were attached somewhere."""
        for key in keys:
            for search in self._searches.get(key, {}).values():
                search.start()

    async def stop(self) -> None:
        tasks = [*self._running, *self._dialling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def places(self, seeker: WaitingSession) -> list[str]:
        """Addresses to ask, the one where least of it is ours first. Raises StoreDown."""
        found = await self._directory.find(seeker.owner, seeker.fingerprint)

        def ours(address: str) -> float:
            link = self._links.get(address)
            return link.sessions / max(1, found[address]) if link else 0.0

        return sorted(found, key=ours)

    async def link(self, address: str) -> ReplicaLink:
        """The link to that replica, dialled if there is none. Raises Unreachable."""
        if (link := self._links.get(address)) and not link.ended:
            return link
        if asyncio.get_running_loop().time() < self._not_before.get(address, 0.0):
            raise Unreachable
        if address not in self._dialling:
            self._dialling[address] = task = asyncio.create_task(self._dial(address))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # even if nobody waits any more
        return await asyncio.shield(self._dialling[address])

    def found(self, seeker: WaitingSession, desk: RemoteSlot) -> None:
        """A seat was granted: the session takes it, and leaves every line that it stands in."""
        self._agents.leave(seeker)
        seeker.on_agent(desk)

    async def _dial(self, address: str) -> ReplicaLink:
        try:
            link = self._links[address] = ReplicaLink(address, await dial(address, self._prover))
        except (OSError, TimeoutError, WebSocketException, HandshakeFailed) as error:
            now = asyncio.get_running_loop().time()
            self._not_before = {other: until for other, until in self._not_before.items() if until > now}
            self._not_before[address] = now + RETRY_SECONDS
            event(log, "replica not reached", level=logging.WARNING, address=address, reason=str(error))
            raise Unreachable from error
        finally:
            del self._dialling[address]
        self._not_before.pop(address, None)
        task = asyncio.create_task(self._keep(link))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return link

    async def _keep(self, link: ReplicaLink) -> None:
        event(log, "replica linked", address=link.address)
        self._metrics.replicas.inc()
        try:
            await link.run()
        except (ConnectionClosed, WireError, TooSlow) as error:
            event(log, "replica lost", level=logging.WARNING, address=link.address, reason=str(error))
        finally:
            self._metrics.replicas.dec()
            if self._links.get(link.address) is link:
                del self._links[link.address]


class RemoteSearch:
    """One session's: a link.Asker at every replica that it asked."""

    def __init__(self, elsewhere: RemoteAgents, seeker: WaitingSession) -> None:
        self._elsewhere = elsewhere
        self._seeker = seeker
        self._lines: dict[str, RemoteSlot] = {}
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._news = False

    def start(self) -> None:
        """Look, unless it is looking; then once more when it is done."""
        self._news = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())

    def end(self) -> None:
        if self._task:
            self._task.cancel()
        if self._again:
            self._again.cancel()
        for desk in self._lines.values():
            desk.close()
        self._lines.clear()

    def on_queued(self) -> None:
        self._answered.set()

    def on_unavailable(self, desk: RemoteSlot) -> None:
        self._leave_line(desk)
        self._answered.set()
        self._later()

    def on_granted(self, desk: RemoteSlot) -> None:
        self._leave_line(desk)
        self._elsewhere.found(self._seeker, desk)

    async def _look(self) -> None:
        while self._news:
            self._news = False
            try:
                places = await self._elsewhere.places(self._seeker)
            except StoreDown:
                self._later()
                return
            for address in places:
                if address not in self._lines:
                    await self._ask(address)

    async def _ask(self, address: str) -> None:
        """Wait until that replica has answered; a seat ends the search."""
        try:
            link = await self._elsewhere.link(address)
        except Unreachable:
            self._later()
            return
        self._answered.clear()
        self._lines[address] = link.request_slot(self, self._seeker)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answered.wait()

    def _later(self) -> None:
        """Something failed that the directory will not tell of when it works again."""
        if self._again:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(RETRY_SECONDS, self.start)

    def _leave_line(self, desk: RemoteSlot) -> None:
        self._lines = {address: other for address, other in self._lines.items() if other is not desk}
