"""The connection to one model server: identified, its tokenizer checked, given up when it fails, and tried again.

A server that failed may come back as another one, so everything is checked again before it is used.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.drafters.server.api import ServerApi
from edge_agent.drafters.server.http_client import HttpClient, ServerError, ServerUrl
from edge_agent.drafters.server.identify import identify
from edge_agent.drafters.server.vocabulary import check_server_vocabulary, read_server_vocabulary
from edgedraft.tokenizer import fingerprint_vocabulary

log = logging.getLogger(__name__)

FIRST_BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds
STABLE_SECONDS = 30.0  # without a failure, after which the backoff starts over
PROBE_TOKENS, PROBE_TOP = 8, 4
PROBE_CALLS = 3


@dataclass(frozen=True, slots=True)
class CheckedServer:
    """A server that drafts as it should. `tokens_per_second` is that of chains of PROBE_TOKENS."""

    api: ServerApi
    fingerprint: str
    tokens_per_second: float


def connect(url: ServerUrl, tokenizer: str, may_connect: Callable[[], bool] = lambda: True) -> CheckedServer:
    """Identify a server, check its tokenizer and its answers, and measure it. Raises ServerError.

    `may_connect` is asked before each connection, now and later.
    """
    client = HttpClient(url, may_connect)
    try:
        api = identify(client)
        vocabulary = read_server_vocabulary(api, tokenizer)
        speed = _measure(api, sorted(vocabulary))
        check_server_vocabulary(api, vocabulary)
    except ServerError:
        client.close()
        raise
    return CheckedServer(api, fingerprint_vocabulary(vocabulary), speed)


def _measure(api: ServerApi, ids: list[int]) -> float:
    """Tokens per second of the best of a few chains. Raises ServerError when an answer is not as it should be."""
    prompt = ids[len(ids) // 2 :][:16]
    best = 0.0
    for _ in range(PROBE_CALLS):
        start = time.perf_counter()
        places = api.complete(0, prompt, PROBE_TOKENS, PROBE_TOP)
        best = max(best, len(places) / (time.perf_counter() - start))
    return best


class ServerConnection:
    """A server that was checked once, and whatever is at its URL after a failure; any thread may use it."""

    def __init__(
        self, url: ServerUrl, tokenizer: str, checked: CheckedServer, may_connect: Callable[[], bool] = lambda: True
    ) -> None:
        """`may_connect` is asked before the URL is connected to again."""
        self.fingerprint = checked.fingerprint
        self.generation = 0  # counts the connections: what a server had cached is gone with it
        self._url = url
        self._tokenizer = tokenizer
        self._may_connect = may_connect
        self._api: ServerApi | None = checked.api
        self._lock = threading.Lock()
        self._backoff = FIRST_BACKOFF
        self._connected_at = time.monotonic()
        self._retry_at = 0.0
        self._trying = False

    def api(self) -> ServerApi | None:
        """The server, or None while it has failed; it is then tried again in another thread, after the backoff."""
        with self._lock:
            if self._api is None and not self._trying and time.monotonic() >= self._retry_at:
                self._trying = True
                threading.Thread(target=self._reconnect, name="draft server", daemon=True).start()
            return self._api

    def fail(self, api: ServerApi, error: Exception) -> None:
        """Give the server up for a while, unless that has happened already."""
        with self._lock:
            if self._api is not api:
                return
            self._api = None
            if time.monotonic() - self._connected_at >= STABLE_SECONDS:
                self._backoff = FIRST_BACKOFF
            self._give_up()
        api.client.close()
        log.warning("draft server %s: %s; drafting goes on without it until it is back", self._url.shown, error)

    def _give_up(self) -> None:
        self._retry_at = time.monotonic() + self._backoff
        self._backoff = min(MAX_BACKOFF, 2 * self._backoff)

    def _reconnect(self) -> None:
        try:
            checked = connect(self._url, self._tokenizer, self._may_connect)
            if checked.fingerprint != self.fingerprint:
                raise ServerError("it has another tokenizer than before")
        except Exception as error:
            log.debug("draft server %s: still not usable: %s", self._url.shown, error)
            with self._lock:
                self._trying = False
                self._give_up()
            return
        with self._lock:
            self._api, self._trying = checked.api, False
            self.generation += 1
            self._connected_at = time.monotonic()
        log.info("draft server %s: back", self._url.shown)
