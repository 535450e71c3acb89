"""The verifiers of this gateway, configured by URL or by DNS name: connects to them and opens sessions at them.

Which verifier is best is decided in selection.py; a session opens at a second one in hedging.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential
from websockets.exceptions import WebSocketException

from edgedraft.links.transport import TransportClosed
from edgedraft.observability.logs import event
from edgedraft.wire import ModelCard, Open, WireError
from gateway.model.served_model import ModelCatalog, ServedModel, UnusableCard
from gateway.observability.metrics import Metrics
from gateway.verifiers.affinity import PrefixAffinity
from gateway.verifiers.billing import AttemptBilling, RecordSpent
from gateway.verifiers.discovery import VerifierAddress, is_dns_url, resolve
from gateway.verifiers.health import VerifierHealth
from gateway.verifiers.hedging import HedgedListener, HedgedSession, HedgePolicy
from gateway.verifiers.link import VerifierLink, VerifierSession, connect
from gateway.verifiers.selection import select_verifier

log = logging.getLogger(__name__)

IDLE_POLL_SECONDS = 0.5  # between two checks whether a verifier that is being removed still has sessions
RECONNECT_SECONDS = 0.05  # between a lost connection and the next attempt
_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)
_CONNECT_ERRORS = (OSError, TimeoutError, WebSocketException, TransportClosed, WireError, UnusableCard)


class NoVerifier(Exception):
    """No verifier of this model is connected."""


class NoCapacity(Exception):
    """All connected verifiers of this model are full."""


@dataclass(eq=False)
class _Member:
    """One verifier of the pool; `removing` while it gets no new sessions and is removed once it has none."""

    address: VerifierAddress
    health: VerifierHealth = field(default_factory=VerifierHealth)
    link: VerifierLink | None = None
    removing: bool = False
    task: asyncio.Task[None] | None = None


class VerifierPool:
    """One link per address, reconnected for as long as the pool runs. Use between start() and stop().

    `load_model` raises UnusableCard; `record_spent` is AttemptBilling's. DNS names are resolved again every
    `dns_seconds`; `hedge_after` is HedgePolicy's `after`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str,
        name: str,
        metrics: Metrics,
        load_model: Callable[[ModelCard], Awaitable[ServedModel]],
        record_spent: RecordSpent,
        dns_seconds: float = 5.0,
        hedge_after: float = 0.0,
    ) -> None:
        self.catalog = ModelCatalog()
        self._urls = list(dict.fromkeys(urls))
        self._token = token
        self._name = name
        self._metrics = metrics
        self._load_model = load_model
        self._billing = AttemptBilling(record_spent)
        self._dns_seconds = dns_seconds
        self._hedge_policy = HedgePolicy(hedge_after)
        self._affinity = PrefixAffinity()
        self._members: dict[VerifierAddress, _Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()
        self._card_lock = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether some verifier can be given sessions."""
        return bool(self._available_links())

    @property
    def links(self) -> list[VerifierLink]:
        """All connected verifiers."""
        return [member.link for member in self._members.values() if member.link]

    def start(self) -> None:
        for url in self._urls:
            if is_dns_url(url):
                self._run(self._follow_dns(url), f"name {url}")
            else:
                self.add(VerifierAddress(url))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add(self, address: VerifierAddress) -> None:
        """Connect to the verifier at this address and use it; keeps one that is in the pool already."""
        member = self._members.get(address)
        if member is None:
            member = self._members[address] = _Member(address)
            member.task = self._run(self._keep_connected(member), f"verifier {address}")
        member.removing = False

    def remove(self, address: VerifierAddress) -> None:
        """Open no more sessions there, and disconnect once the open ones have ended."""
        member = self._members.get(address)
        if member and not member.removing:
            member.removing = True
            event(log, "verifier leaves", url=address, running=member.link.running if member.link else 0)
            self._run(self._remove_when_idle(member), f"verifier {address} leaves")

    def open(
        self,
        listener: HedgedListener,
        model: ServedModel,
        message: Open,
        avoid: VerifierLink | None,
        full: Collection[VerifierLink] = (),
    ) -> VerifierSession | HedgedSession:
        """Open a session at the best verifier; at `avoid` only if no other has capacity, never at one in `full`.

        Raises NoVerifier or NoCapacity.
        """
        links = self._links_serving(model)
        if not links:
            raise NoVerifier(f"no verifier of {model.name} is connected")
        free = [link for link in links if link.has_capacity_for(message.share) and link not in full]
        if not free:
            raise NoCapacity(f"all verifiers of {model.name} are full")
        blocks = self._affinity.hash_blocks(message.salt, message.prompt)
        link = select_verifier(free, avoid, blocks, self._affinity.longest_match(blocks))
        self._affinity.record(blocks, link.url)
        if not self._hedge_policy.enabled:
            return link.open(listener, message)

        def select_second(first: VerifierLink) -> VerifierLink | None:
            others = [
                other
                for other in self._links_serving(model)
                if other is not first and other.has_capacity and other.preferred and not other.waiting
            ]
            return select_verifier(others, avoid, blocks, ("", 0)) if others else None

        return HedgedSession(listener, link, message, self._hedge_policy, select_second, self._metrics.hedged.inc)

    async def wait_for_model(self, seconds: float) -> None:
        """Wait until some verifier has reported its model, for `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # Checked here and not by the caller: a verifier may join before this runs.
                while not len(self.catalog):
                    await self._joined.wait()

    async def wait_for_join(self, seconds: float) -> None:
        """Wait until a verifier joins, for `seconds` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._joined.wait()

    def _links_serving(self, model: ServedModel) -> list[VerifierLink]:
        return [link for link in self._available_links() if link.model is model]

    def _available_links(self) -> list[VerifierLink]:
        members = self._members.values()
        return [member.link for member in members if member.link and not member.removing and not member.link.draining]

    async def _follow_dns(self, url: str) -> None:
        """Add and remove verifiers as the name's addresses change."""
        known: frozenset[VerifierAddress] = frozenset()
        while True:
            addresses = await resolve(url)
            if addresses is not None:
                for address in addresses:
                    self.add(address)
                for address in known - addresses:
                    self.remove(address)
                known = addresses
            await asyncio.sleep(self._dns_seconds)

    async def _remove_when_idle(self, member: _Member) -> None:
        while member.removing:
            if member.link is None or not member.link.running:
                del self._members[member.address]
                if member.task:
                    member.task.cancel()
                event(log, "verifier left", url=member.address)
                return
            await asyncio.sleep(IDLE_POLL_SECONDS)

    async def _keep_connected(self, member: _Member) -> None:
        url = member.address
        while True:
            link = await self._connect(member)
            member.link = link
            self._on_joined()
            event(log, "verifier joined", url=url, model=link.model.name)
            try:
                await link.run()
            except (TransportClosed, WireError) as error:
                member.health.record_failure()
                event(log, "verifier lost", level=logging.WARNING, url=url, reason=str(error))
            except Exception:
                member.health.record_failure()
                log.exception("verifier lost url=%s", url)
            finally:
                member.link = None
                self._metrics.verifiers.set(len(self.links))
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connect(self, member: _Member) -> VerifierLink:
        """Connect, retrying until it works."""
        last_error = ""
        address = member.address

        def log_once(state: RetryCallState) -> None:
            nonlocal last_error
            error = str(state.outcome.exception() if state.outcome else "")
            if error != last_error:
                event(log, "verifier not used", level=logging.WARNING, url=address, reason=error)
                last_error = error

        async for attempt in AsyncRetrying(wait=_BACKOFF, retry=_is_connect_error, before_sleep=log_once):
            with attempt:
                link, welcome = await connect(address, self._token, self._name)
                try:
                    async with self._card_lock:
                        model = await self._model_of(welcome.card)
                except BaseException:
                    await link.close()
                    raise
                return VerifierLink(str(address), link, model, welcome.max_sessions, member.health, self._billing)
        raise AssertionError("retrying never gives up")

    async def _model_of(self, card: ModelCard) -> ServedModel:
        """The card's model. Raises UnusableCard if a connected verifier serves another model of that name."""
        known = self.catalog.get(card.name)
        if known and known.fingerprint == card.fingerprint:
            return known
        if known and any(link.model is known for link in self.links):
            raise UnusableCard(
                f"its model {card.name} has the tokenizer {card.fingerprint[:12]}, "
                f"while another verifier serves one of that name with {known.fingerprint[:12]}"
            )
        model = await self._load_model(card)
        self.catalog.add(model)
        return model

    def _on_joined(self) -> None:
        self._metrics.verifiers.set(len(self.links))
        self._joined.set()
        self._joined = asyncio.Event()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_connect_error(state: RetryCallState) -> bool:
    return state.outcome is not None and isinstance(state.outcome.exception(), _CONNECT_ERRORS)
