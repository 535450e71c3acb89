"""Admission: whether a key may have one more request, by its limits or, where it has none, by the gateway's.

Generations at once are counted in this process, spend by the ledger, requests and tokens a minute by a RateStore. What
a request will need in tokens is predicted before it runs and settled afterwards.
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

DEFAULT_OUTPUT_TOKENS = (
    1024  # that a choice is predicted to take where more were asked for than the key may have in a minute
)
SPEND_RETRY_SECONDS = 3600.0


class Admission:
    """Counts the generations that run, a key at a time, and hands out tickets."""

    def __init__(self, defaults: KeyLimits, rates: RateStore, ledger: Ledger) -> None:
        self._defaults = defaults
        self._rates = rates
        self._ledger = ledger
        self._running: Counter[str] = Counter()

    @contextmanager
    def reserve_concurrency(self, principal: Principal, generations: int) -> Iterator[None]:
        """Room for `generations` while the context lasts. Raises ApiError 429 when there is too little."""
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
        """Count one request. `headers` are the response's, kept up to date with what the key has left.

        Raises ApiError: 429 when the key has no more requests now or no money this month, 503 when the ledger cannot
        be read.
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
    """One request's share of its key's limits a minute."""

    def __init__(self, key_id: str, limits: KeyLimits, rates: RateStore, headers: MutableMapping[str, str]) -> None:
        self._key_id = key_id
        self._requests = limits.requests_per_minute
        self._tokens = limits.tokens_per_minute
        self._rates = rates
        self._headers = headers
        self._predicted = 0

    async def take_request(self) -> None:
        """Raises ApiError 429."""
        if self._tokens is not None:
            self._set_headers("tokens", self._tokens, await self._rates.take(self._bucket("tokens"), 0, self._tokens))
        if self._requests is None:
            return
        taken = await self._rates.take(self._bucket("requests"), 1, self._requests)
        self._set_headers("requests", self._requests, taken)
        if not taken.granted:
            raise _rate_limited(f"This key may make {self._requests} requests a minute.", taken.wait)

    async def take_tokens(self, prompt_tokens: int, max_tokens: Sequence[int]) -> None:
        """What one request with these choices may come to. Raises ApiError 429.

        That is prompt and max_tokens; where those of one choice are more than the key may have in a minute at all,
        its output is predicted at DEFAULT_OUTPUT_TOKENS: clients that name no limit get all that the context holds.
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
        """The request is over and came to so many."""
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
    """As OpenAI writes one: 6m0s, 1.2s, 20ms."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
