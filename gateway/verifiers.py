"""The verifiers that this gateway was told of: kept connected, and chosen among for each session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential
from websockets.exceptions import ConnectionClosed, WebSocketException

from edgedraft.telemetry import event
from edgedraft.wire import ModelCard, Open, WireError
from gateway.link import TooSlow
from gateway.served_model import Catalog, ServedModel, UnusableCard
from gateway.telemetry import Metrics
from gateway.verifier_link import Lease, VerifierLink, VerifierListener, dial

log = logging.getLogger(__name__)

_BACKOFF = wait_random_exponential(multiplier=0.2, max=5)
_NOT_REACHED = (OSError, TimeoutError, WebSocketException, WireError, UnusableCard)


class NoVerifier(Exception):
    """No verifier of this model is connected."""


class NoRoom(Exception):
    """All verifiers of this model that are connected are full."""


class VerifierPool:
    """One link a URL, dialled again for ever while lost. Use between start() and stop()."""

    def __init__(self, urls: Sequence[str], token: str, name: str, metrics: Metrics) -> None:
        self.catalog = Catalog()
        self._urls = list(dict.fromkeys(urls))
        self._token = token
        self._name = name
        self._metrics = metrics
        self._links: list[VerifierLink] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = asyncio.Event()
        self._one_card = asyncio.Lock()

    @property
    def ready(self) -> bool:
        return bool(self._links)

    @property
    def links(self) -> list[VerifierLink]:
        """Those that are connected."""
        return list(self._links)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(url), name=f"verifier {url}") for url in self._urls]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def open(
        self,
        listener: VerifierListener,
        model: ServedModel,
        message: Open,
        avoid: VerifierLink | None,
        full: Collection[VerifierLink] = (),
    ) -> Lease:
        """Open a session where fewest are running; at `avoid` only if nobody else has room, never at those `full`.

        Raises NoVerifier or NoRoom.
        """
        links = [link for link in self._links if link.model is model]
        if not links:
            raise NoVerifier(f"no verifier of {model.name} is connected")
        free = [link for link in links if link.has_room and link not in full]
        if not free:
            raise NoRoom(f"all verifiers of {model.name} are full")
        link = min(free, key=lambda link: (link is avoid, link.running))
        return link.open(listener, message)

    async def first_model(self, seconds: float) -> None:
        """Wait until some verifier has been heard of, for `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                # Looked at here, not by the caller: a verifier may join while this is being scheduled.
                while not len(self.catalog):
                    await self._joined.wait()
        except TimeoutError:
            pass

    async def joined(self, seconds: float) -> None:
        """Wait for `seconds`, or for a verifier to join if that is sooner."""
        try:
            async with asyncio.timeout(seconds):
                await self._joined.wait()
        except TimeoutError:
            pass

    async def _keep(self, url: str) -> None:
        while True:
            link = await self._connect(url)
            self._links.append(link)
            self._announce()
            event(log, "verifier joined", url=url, model=link.model.name)
            try:
                await link.run()
            except (ConnectionClosed, WireError, TooSlow) as error:
                event(log, "verifier lost", level=logging.WARNING, url=url, reason=str(error))
            except Exception:
                log.exception("verifier lost url=%s", url)
            finally:
                self._links.remove(link)
                self._metrics.verifiers.set(len(self._links))
            await asyncio.sleep(0.05)

    async def _connect(self, url: str) -> VerifierLink:
        said = ""

        def log_once(state: RetryCallState) -> None:
            nonlocal said
            error = str(state.outcome.exception() if state.outcome else "")
            if error != said:
                event(log, "verifier not used", level=logging.WARNING, url=url, reason=error)
                said = error

        async for attempt in AsyncRetrying(wait=_BACKOFF, retry=_not_reached, before_sleep=log_once):
            with attempt:
                connection, welcome = await dial(url, self._token, self._name)
                try:
                    async with self._one_card:
                        model = await self._model(welcome.card)
                except BaseException:
                    await connection.close()
                    raise
                return VerifierLink(url, connection, model, welcome.max_sessions)
        raise AssertionError("retrying never gives up")

    async def _model(self, card: ModelCard) -> ServedModel:
        """What the card describes; a name that nobody serves any more is free for another model."""
        known = self.catalog.get(card.name)
        if known and known.fingerprint == card.fingerprint:
            return known
        if known and any(link.model is known for link in self._links):
            raise UnusableCard(
                f"its model {card.name} has the tokenizer {card.fingerprint[:12]}, "
                f"while another verifier serves one of that name with {known.fingerprint[:12]}"
            )
        model = await asyncio.to_thread(ServedModel.from_card, card)
        self.catalog.add(model)
        return model

    def _announce(self) -> None:
        self._metrics.verifiers.set(len(self._links))
        self._joined.set()
        self._joined = asyncio.Event()


def _not_reached(state: RetryCallState) -> bool:
    return state.outcome is not None and isinstance(state.outcome.exception(), _NOT_REACHED)
