"""Admission: enforces a key's limits, with the gateway's defaults for limits that it does not set.

Concurrent generations are counted in this process, spend by the ledger, requests and tokens per minute by a RateStore.
The tokens of a request are predicted before it runs and corrected when it ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

from gateway.accounts import KeyLimits, Principal
from gateway.http.errors import RATE_LIMIT, ApiError, database_down
from gateway.ledger import Ledger
from gateway.limits.rate_limits import RateStore, TakeResult
from gateway.storage.database import DatabaseDown

DEFAULT_OUTPUT_TOKENS = 1024  # predicted for a choice whose max_tokens exceeds the limit per minute
SPEND_RETRY_SECONDS = 3600.0


class Admission:
    """Counts the running generations of each key and admits requests."""

    def __init__(self, defaults: KeyLimits, rates: RateStore, ledger: Ledger) -> None:
        self._defaults = defaults
        self._rates = rates
        self._ledger = ledger
        self._running: Counter[str] = Counter()

    @contextmanager
    def reserve_concurrency(self, principal: Principal, generations: int) -> Iterator[None]:
        """Counts `generations` as running while the context lasts. Raises ApiError 429 over the key's limit."""
        key_id, limit = principal.key_id, principal.limits.with_defaults(self._defaults).concurrent
        if limit is not None and self._running[key_id] + generations > limit:
            running = self._running[key_id]
            raise _rate_limited(f"This key may run {limit} generations at once and {running} are running.", 1)
        self._running[key_id] += generations
        try:
            yield
        finally:
            self._running[key_id] -= generations
            if not self._running[key_id]:
                del self._running[key_id]

    async def admit(self, principal: Principal, headers: MutableMapping[str, str]) -> RateReservation:
        """Counts one request. `headers` are the response's: x-ratelimit-* are set and kept up to date.

        Raises ApiError: 429 over the request limit or the monthly budget, 503 if the ledger cannot be read.
        """
        limits = principal.limits.with_defaults(self._defaults)
        reservation = RateReservation(principal.key_id, limits, self._rates, headers)
        if limits.monthly_spend is not None:
            try:
                spent = await self._ledger.month_spend(principal.key_id)
            except DatabaseDown as error:
                raise database_down() from error
            if spent >= limits.monthly_spend:
                raise ApiError(
                    429,
                    "This key has spent its budget of this month.",
                    kind="insufficient_quota",
                    code="insufficient_quota",
                    retry_after=SPEND_RETRY_SECONDS,
                    headers={"x-should-retry": "false"},
                )
        await reservation.take_request()
        return reservation


class RateReservation:
    """One request's use of its key's limits per minute."""

    def __init__(self, key_id: str, limits: KeyLimits, rates: RateStore, headers: MutableMapping[str, str]) -> None:
        self._key_id = key_id
        self._requests = limits.requests_per_minute
        self._tokens = limits.tokens_per_minute
        self._rates = rates
        self._headers = headers
        self._predicted = 0

    async def take_request(self) -> None:
        """Takes one request. Raises ApiError 429 over the limit."""
        if self._tokens is not None:
            self._set_headers("tokens", self._tokens, await self._rates.take(self._bucket("tokens"), 0, self._tokens))
        if self._requests is None:
            return
        taken = await self._rates.take(self._bucket("requests"), 1, self._requests)
        self._set_headers("requests", self._requests, taken)
        if not taken.granted:
            raise _rate_limited(f"This key may make {self._requests} requests a minute.", taken.wait)

    async def take_tokens(self, prompt_tokens: int, max_tokens: Sequence[int]) -> None:
        """Takes the predicted tokens of a request with these choices. Raises ApiError 429 over the limit.

        The prediction is the prompt plus each choice's max_tokens. If that exceeds the limit per minute on its own,
        DEFAULT_OUTPUT_TOKENS is used: without max_tokens in the request, it is all that the context holds.
        """
        if self._tokens is None:
            return
        most = self._tokens - prompt_tokens
        output = sum(tokens if tokens <= most else min(tokens, DEFAULT_OUTPUT_TOKENS) for tokens in max_tokens)
        amount = prompt_tokens + output
        if prompt_tokens >= self._tokens:
            raise _rate_limited(
                f"The request is too large: {prompt_tokens} tokens, and this key may have {self._tokens} a minute."
            )
        amount = min(amount, self._tokens)
        taken = await self._rates.take(self._bucket("tokens"), amount, self._tokens)
        self._set_headers("tokens", self._tokens, taken)
        if not taken.granted:
            raise _rate_limited(
                f"This key may have {self._tokens} tokens a minute; {taken.remaining} are left and this request may "
                f"take {amount}.",
                taken.wait,
            )
        self._predicted = amount

    def settle(self, tokens: int) -> None:
        """Corrects the prediction to the tokens that the request used."""
        if self._tokens is not None:
            self._rates.give_back(self._bucket("tokens"), self._predicted - tokens, self._tokens)
            self._predicted = tokens

    def _bucket(self, what: str) -> str:
        return f"{what}/{self._key_id}"

    def _set_headers(self, what: str, limit: int, taken: TakeResult) -> None:
        self._headers[f"x-ratelimit-limit-{what}"] = str(limit)
        self._headers[f"x-ratelimit-remaining-{what}"] = str(taken.remaining)
        self._headers[f"x-ratelimit-reset-{what}"] = _duration(taken.reset)


def _rate_limited(message: str, retry_after: float | None = None) -> ApiError:
    return ApiError(429, message, kind=RATE_LIMIT, code="rate_limit_exceeded", retry_after=retry_after)


def _duration(seconds: float) -> str:
    """A duration in OpenAI's format: 6m0s, 1.2s, 20ms."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
