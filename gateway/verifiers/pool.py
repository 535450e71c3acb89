"""The verifiers that this gateway was told of, by address or by name: kept connected, and chosen among for sessions.

What makes one a better choice is verifier_choice.py's, asking a second one hedge.py's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential
from websockets.exceptions import ConnectionClosed, WebSocketException

from edgedraft.links.outbox import TooSlow
from edgedraft.observability.logs import event
from edgedraft.wire import ModelCard, Open, WireError
from gateway.model.served_model import ModelCatalog, ServedModel, UnusableCard
from gateway.observability.metrics import Metrics
from gateway.verifiers.affinity import PrefixAffinity
from gateway.verifiers.discovery import VerifierAddress, is_dns_url, resolve
from gateway.verifiers.health import VerifierHealth
from gateway.verifiers.hedging import HedgedListener, HedgedSession, HedgePolicy
from gateway.verifiers.link import VerifierLink, dial
from gateway.verifiers.selection import select_verifier

log = logging.getLogger(__name__)

LEAVING_SECONDS = 0.5  # between two looks at whether one that is to go has still sessions
_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)
_NOT_REACHED = (OSError, TimeoutError, WebSocketException, WireError, UnusableCard)


class NoVerifier(Exception):
    """No verifier of this model is connected."""


class NoCapacity(Exception):
    """All verifiers of this model that are connected are full."""


@dataclass(eq=False)
class _Member:
    """One verifier; `leaving` when it is to get no new session and to be let go once it has none."""

    place: VerifierAddress
    health: VerifierHealth = field(default_factory=VerifierHealth)
    link: VerifierLink | None = None
    leaving: bool = False
    task: asyncio.Task[None] | None = None


class VerifierPool:
    """One link an address, dialled again for ever while lost. Use between start() and stop().

    Names are looked up again every `dns_seconds`; `hedge_after` is hedge.Hedges'.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str,
        name: str,
        metrics: Metrics,
        dns_seconds: float = 5.0,
        hedge_after: float = 0.0,
    ) -> None:
        self.catalog = ModelCatalog()
        self._urls = list(dict.fromkeys(urls))
        self._token = token
        self._name = name
        self._metrics = metrics
        self._dns_seconds = dns_seconds
        self._hedges = HedgePolicy(hedge_after)
        self._affinity = PrefixAffinity()
        self._members: dict[VerifierAddress, _Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()
        self._one_card = asyncio.Lock()

    @property
    def ready(self) -> bool:
        return bool(self._available_links())

    @property
    def links(self) -> list[VerifierLink]:
        """Those that are connected."""
        return [member.link for member in self._members.values() if member.link]

    def start(self) -> None:
        for url in self._urls:
            if is_dns_url(url):
                self._run(self._watch(url), f"name {url}")
            else:
                self.join(VerifierAddress(url))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def join(self, place: VerifierAddress) -> None:
        """Use the verifier at this place, from when it is reached; does nothing for one that is used already."""
        member = self._members.get(place)
        if member is None:
            member = self._members[place] = _Member(place)
            member.task = self._run(self._keep(member), f"verifier {place}")
        member.leaving = False

    def retire(self, place: VerifierAddress) -> None:
        """Open no more sessions there, and let it go once it has none."""
        member = self._members.get(place)
        if member and not member.leaving:
            member.leaving = True
            event(log, "verifier leaves", url=place, running=member.link.running if member.link else 0)
            self._run(self._let_go(member), f"verifier {place} leaves")

    def open(
        self,
        listener: HedgedListener,
        model: ServedModel,
        message: Open,
        avoid: VerifierLink | None,
        full: Collection[VerifierLink] = (),
    ) -> HedgedSession:
        """Open a session where it fits best; at `avoid` only if nobody else has room, never at those `full`.

        Raises NoVerifier or NoRoom.
        """
        links = self._links_serving(model)
        if not links:
            raise NoVerifier(f"no verifier of {model.name} is connected")
        free = [link for link in links if link.has_capacity and link not in full]
        if not free:
            raise NoCapacity(f"all verifiers of {model.name} are full")
        blocks = self._affinity.hash_blocks(message.salt, message.prompt)
        link = select_verifier(free, avoid, blocks, self._affinity.longest_match(blocks))
        self._affinity.record(blocks, link.url)

        def second(first: VerifierLink) -> VerifierLink | None:
            fit = [
                link for link in self._links_serving(model) if link.has_capacity and link.preferred and not link.waiting
            ]
            others = [link for link in fit if link is not first]
            return select_verifier(others, avoid, blocks, ("", 0)) if others else None

        return HedgedSession(listener, link, message, self._hedges, second, self._metrics.hedged.inc)

    async def wait_for_model(self, seconds: float) -> None:
        """Wait until some verifier has been heard of, for `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                # Looked at here, not by the caller: a verifier may join while this is being scheduled.
                while not len(self.catalog):
                    await self._joined.wait()
        except TimeoutError:
            pass

    async def wait_for_join(self, seconds: float) -> None:
        """Wait for `seconds`, or for a verifier to join if that is sooner."""
        try:
            async with asyncio.timeout(seconds):
                await self._joined.wait()
        except TimeoutError:
            pass

    def _links_serving(self, model: ServedModel) -> list[VerifierLink]:
        """Those that may be given sessions of it."""
        return [link for link in self._available_links() if link.model is model]

    def _available_links(self) -> list[VerifierLink]:
        members = self._members.values()
        return [member.link for member in members if member.link and not member.leaving and not member.link.draining]

    async def _watch(self, url: str) -> None:
        """Keep to what a name stands for."""
        before: frozenset[VerifierAddress] = frozenset()
        while True:
            places = await resolve(url)
            if places is not None:
                for place in places:
                    self.join(place)
                for place in before - places:
                    self.retire(place)
                before = places
            await asyncio.sleep(self._dns_seconds)

    async def _let_go(self, member: _Member) -> None:
        while member.leaving:
            if member.link is None or not member.link.running:
                del self._members[member.place]
                if member.task:
                    member.task.cancel()
                event(log, "verifier left", url=member.place)
                return
            await asyncio.sleep(LEAVING_SECONDS)

    async def _keep(self, member: _Member) -> None:
        url = member.place
        while True:
            link = await self._connect(member)
            member.link = link
            self._announce()
            event(log, "verifier joined", url=url, model=link.model.name)
            try:
                await link.run()
            except (ConnectionClosed, WireError, TooSlow) as error:
                member.health.record_failure()
                event(log, "verifier lost", level=logging.WARNING, url=url, reason=str(error))
            except Exception:
                member.health.record_failure()
                log.exception("verifier lost url=%s", url)
            finally:
                member.link = None
                self._metrics.verifiers.set(len(self.links))
            await asyncio.sleep(0.05)

    async def _connect(self, member: _Member) -> VerifierLink:
        said = ""
        place = member.place

        def log_once(state: RetryCallState) -> None:
            nonlocal said
            error = str(state.outcome.exception() if state.outcome else "")
            if error != said:
                event(log, "verifier not used", level=logging.WARNING, url=place, reason=error)
                said = error

        async for attempt in AsyncRetrying(wait=_BACKOFF, retry=_not_reached, before_sleep=log_once):
            with attempt:
                connection, welcome = await dial(place.url, self._token, self._name, place.host)
                try:
                    async with self._one_card:
                        model = await self._model(welcome.card)
                except BaseException:
                    await connection.close()
                    raise
                return VerifierLink(str(place), connection, model, welcome.max_sessions, member.health)
        raise AssertionError("retrying never gives up")

    async def _model(self, card: ModelCard) -> ServedModel:
        """What the card describes; a name that nobody serves any more is free for another model."""
        known = self.catalog.get(card.name)
        if known and known.fingerprint == card.fingerprint:
            return known
        if known and any(link.model is known for link in self.links):
            raise UnusableCard(
                f"its model {card.name} has the tokenizer {card.fingerprint[:12]}, "
                f"while another verifier serves one of that name with {known.fingerprint[:12]}"
            )
        model = await asyncio.to_thread(ServedModel.from_card, card)
        self.catalog.add(model)
        return model

    def _announce(self) -> None:
        self._metrics.verifiers.set(len(self.links))
        self._joined.set()
        self._joined = asyncio.Event()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_reached(state: RetryCallState) -> bool:
    return state.outcome is not None and isinstance(state.outcome.exception(), _NOT_REACHED)
