"""Budgets hold for requests that run at once: each reserves what it may cost at most, until it has ended.

What is left may be less than that; then the request reserves what is left, and none begins beside it. So a key exceeds
its budget by what one request costs beyond its reservation. SpendReservations is the interface;
MemorySpendReservations keeps those of one gateway, shared_spend.py those of all replicas.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.http.errors import RATE_LIMIT, ApiError, database_down
from gateway.ledger import Ledger
from gateway.storage.database import DatabaseDown

SPEND_RETRY_SECONDS = 3600.0
RESERVED_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SpendReservation:
    """What one request may cost at most, in nano-units. `name` is its own among those of the key."""

    key_id: str
    name: str
    amount: int


class SpendReservations(Protocol):
    """What running requests have reserved."""

    async def reserve(self, key_id: str, wanted: int, left: int) -> SpendReservation | None:
        """Reserve `wanted`, or what others have not reserved of `left`; None where that is nothing."""
        ...

    def settle(self, reservation: SpendReservation, cost: int) -> None:
        """The request has ended, and its cost is in this gateway's ledger. Does not block."""
        ...


class MemorySpendReservations:
    """The reservations of one process."""

    def __init__(self) -> None:
        self.reserved: Counter[str] = Counter()  # nano-units by key

    async def reserve(self, key_id: str, wanted: int, left: int) -> SpendReservation | None:
        amount = min(wanted, left - self.reserved[key_id])
        if amount <= 0:
            return None
        self.reserved[key_id] += amount
        return SpendReservation(key_id, "", amount)

    def settle(self, reservation: SpendReservation, cost: int) -> None:
        self.reserved[reservation.key_id] -= reservation.amount
        if not self.reserved[reservation.key_id]:
            del self.reserved[reservation.key_id]


class Budgets:
    """Checks and reserves what keys may spend."""

    def __init__(self, ledger: Ledger, reservations: SpendReservations) -> None:
        self._ledger = ledger
        self._reservations = reservations

    async def check(self, key_id: str, limit: int) -> int:
        """Returns what is left of the budget, without reservations. Raises ApiError: 429 if it is spent, 503."""
        try:
            spent = await self._ledger.month_spend(key_id)
        except DatabaseDown as error:
            raise database_down() from error
        if spent >= limit:
            raise ApiError(
                429,
                "This key has spent its budget of this month.",
                kind="insufficient_quota",
                code="insufficient_quota",
                retry_after=SPEND_RETRY_SECONDS,
                headers={"x-should-retry": "false"},
            )
        return limit - spent

    async def reserve(
        self, key_id: str, limit: int, model: str, prompt_tokens: int, max_tokens: Sequence[int]
    ) -> SpendReservation:
        """Reserves what a request may cost at most, until `settle`. Raises ApiError 429 or 503."""
        left = await self.check(key_id, limit)
        wanted = self._ledger.greatest_cost(model, prompt_tokens, sum(max_tokens))
        reservation = await self._reservations.reserve(key_id, wanted, left)
        if reservation is None:
            message = "What is left of this key's budget is reserved by requests that are running."
            raise ApiError(
                429, message, kind=RATE_LIMIT, code="rate_limit_exceeded", retry_after=RESERVED_RETRY_SECONDS
            )
        return reservation

    def settle(self, reservation: SpendReservation, cost: int) -> None:
        """The request has ended, and its cost is in the ledger."""
        self._reservations.settle(reservation, cost)
