"""Admission: enforces a key's limits, with the gateway's defaults for limits that it does not set.

Concurrent generations are counted in this process, spend by the ledger, requests, reads, tokens and work per minute by
a RateStore, which replicas may share. The tokens of a request are predicted before it runs and corrected when it ends.
What workers did for a key (rendering, tokenizing, compiling) counts too, whether the request was then refused or not.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from gateway.accounts import KeyLimits, Principal
from gateway.http.errors import RATE_LIMIT, ApiError
from gateway.ledger import Ledger
from gateway.limits.rate_limits import RateStore, TakeResult, Use
from gateway.limits.spend import Budgets, MemorySpendReservations, SpendReservation, SpendReservations

DEFAULT_OUTPUT_TOKENS = 1024  # predicted for a choice whose max_tokens exceeds the limit per minute
DEFAULT_WORK_SECONDS = 120  # of workers' processor time per minute: two processors. A chat takes 0.001 to 0.02.
DEFAULT_READS = 1200  # per minute: 20 dashboards
MAX_UNCHARGED = 1.0  # processor seconds of one request that wait for its next call of the store
WORK_TOKENS = 1000  # per processor second of a worker, against the limit of tokens per minute


class Admission:
    """Counts the running generations of each key and admits requests."""

    def __init__(
        self,
        defaults: KeyLimits,
        rates: RateStore,
        ledger: Ledger,
        work_seconds_per_minute: int = DEFAULT_WORK_SECONDS,
        reads_per_minute: int = DEFAULT_READS,
        reservations: SpendReservations | None = None,
    ) -> None:
        """`defaults` are the limits of keys that have none of their own; the two per minute are those of every key.

        Without `reservations`, those of budgets are this process's own.
        """
        self._defaults = defaults
        self._rates = rates
        self._budgets = Budgets(ledger, reservations or MemorySpendReservations())
        self._running: Counter[str] = Counter()
        self._work_seconds = work_seconds_per_minute
        self._reads = reads_per_minute

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
        reservation = RateReservation(principal.key_id, limits, self._rates, self._budgets, self._work_seconds, headers)
        if limits.monthly_spend is not None:
            await self._budgets.check(principal.key_id, limits.monthly_spend)
        await reservation.take_request()
        return reservation

    async def take_read(self, principal: Principal) -> None:
        """Counts one request that only reads. Raises ApiError 429 over the limit."""
        (taken,) = await self._rates.take([_use("reads", principal.key_id, 1, self._reads)])
        if not taken.granted:
            raise _rate_limited(f"This key may read {self._reads} times a minute.", taken.wait)


class RateReservation:
    """One request's use of its key's limits per minute. Call `close` when the request is over.

    It calls the store when the request is admitted, when its tokens are known, and at its end: what workers do for it
    is charged with the next of these, or at once where it is much.
    """

    def __init__(
        self,
        key_id: str,
        limits: KeyLimits,
        rates: RateStore,
        budgets: Budgets,
        work_seconds: int,
        headers: MutableMapping[str, str],
    ) -> None:
        self._key_id = key_id
        self._requests = limits.requests_per_minute
        self._tokens = limits.tokens_per_minute
        self._rates = rates
        self._budgets = budgets
        self._monthly_spend = limits.monthly_spend
        self._reserved_spend: SpendReservation | None = None
        self._work_milliseconds = work_seconds * 1000
        self._headers = headers
        self._predicted = self._used = 0  # tokens
        self._uncharged = 0.0  # processor seconds
        self._closed = False

    async def take_request(self) -> None:
        """Takes one request.

        Raises ApiError 429 over the limit, and while the key has used more than its share of the workers' time or more
        tokens than it may.
        """
        takes = [_use("work", self._key_id, 0, self._work_milliseconds)]
        if self._requests is not None:
            takes.append(_use("requests", self._key_id, 1, self._requests))
        if self._tokens is not None:
            takes.append(_use("tokens", self._key_id, 0, self._tokens))
        results = await self._rates.take(takes)
        work = results.pop(0)
        requests = results.pop(0) if self._requests is not None else None
        tokens = results.pop(0) if self._tokens is not None else None
        if requests:
            self._set_headers("requests", self._requests, requests)
        if tokens:
            self._set_headers("tokens", self._tokens, tokens)
        if not work.granted:
            raise _rate_limited("This key's requests take too long to render, tokenize and compile.", work.wait)
        if requests and not requests.granted:
            raise _rate_limited(f"This key may make {self._requests} requests a minute.", requests.wait)
        if tokens and not tokens.granted:
            raise _rate_limited(f"This key may have {self._tokens} tokens a minute; none are left.", tokens.wait)

    def charge_work(self, cpu_seconds: float) -> None:
        """Counts processor time of workers. May be called after `close`, of a job that was given up."""
        self._uncharged += cpu_seconds
        if self._closed or self._uncharged >= MAX_UNCHARGED:
            self._charge(self._take_charges())

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
        use = _use("tokens", self._key_id, amount, self._tokens)
        taking = asyncio.ensure_future(self._rates.take([use], self._take_charges()))
        try:
            (taken,) = await asyncio.shield(taking)
        except asyncio.CancelledError:  # the client has gone; the store may have granted it all the same
            taking.add_done_callback(partial(self._return_tokens, use))
            raise
        self._set_headers("tokens", self._tokens, taken)
        if not taken.granted:
            raise _rate_limited(
                f"This key may have {self._tokens} tokens a minute; {taken.remaining} are left and this request may "
                f"take {amount}.",
                taken.wait,
            )
        self._predicted = amount

    async def reserve_spend(self, model: str, prompt_tokens: int, max_tokens: Sequence[int]) -> None:
        """Reserves what the request may cost at most until `settle`. Raises ApiError: 429 over the budget, 503."""
        if self._monthly_spend is not None:
            self._reserved_spend = await self._budgets.reserve(
                self._key_id, self._monthly_spend, model, prompt_tokens, max_tokens
            )

    def settle(self, tokens: int, cost: int = 0) -> None:
        """Corrects the prediction to the tokens that the request used. `cost` is in the ledger."""
        if self._reserved_spend:
            self._budgets.settle(self._reserved_spend, cost)
            self._reserved_spend = None
        charges = self._take_charges(tokens - self._predicted)
        self._predicted = self._used = tokens
        self._charge(charges)

    def close(self) -> None:
        """The request is over: what it took without running a generation is returned, and its work is charged."""
        if not self._closed:
            self._closed = True
            self.settle(self._used)

    def _charge(self, charges: Sequence[Use]) -> None:
        if charges:
            self._rates.charge(charges)

    def _take_charges(self, tokens: int = 0) -> list[Use]:
        """The work that has not been charged, in both units, and `tokens` more."""
        milliseconds = round(self._uncharged * 1000)  # less than one is left for the next call
        self._uncharged -= milliseconds / 1000
        charges: list[Use] = []
        if milliseconds:
            charges.append(_use("work", self._key_id, milliseconds, self._work_milliseconds))
        if self._tokens is not None and (amount := milliseconds * WORK_TOKENS // 1000 + tokens):
            charges.append(_use("tokens", self._key_id, amount, self._tokens))
        return charges

    def _return_tokens(self, use: Use, taking: asyncio.Future[list[TakeResult]]) -> None:
        if not taking.cancelled() and not taking.exception() and taking.result()[0].granted:
            self._rates.charge([replace(use, amount=-use.amount)])

    def _set_headers(self, what: str, limit: int | None, taken: TakeResult) -> None:
        self._headers[f"x-ratelimit-limit-{what}"] = str(limit)
        self._headers[f"x-ratelimit-remaining-{what}"] = str(taken.remaining)
        self._headers[f"x-ratelimit-reset-{what}"] = _duration(taken.reset)


def _use(what: str, key_id: str, amount: int, per_minute: int) -> Use:
    """The braces keep a key's buckets on one shard of a Redis Cluster, as a script needs them."""
    return Use(f"{what}/{{{key_id}}}", amount, per_minute)


def _rate_limited(message: str, retry_after: float | None = None) -> ApiError:
    return ApiError(429, message, kind=RATE_LIMIT, code="rate_limit_exceeded", retry_after=retry_after)


def _duration(seconds: float) -> str:
    """A duration in OpenAI's format: 6m0s, 1.2s, 20ms."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
