"""Tickets with which browsers attach: a page cannot set headers on a WebSocket, and a key in a URL ends up in logs.

A ticket opens one WebSocket within TICKET_SECONDS, for the key and from the web origin that it was issued to. Stored
are the hashes of tickets and the digests of keys, so neither can be used by who reads the store.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

TICKET_SECONDS = 30
MAX_PER_KEY = 32  # tickets of one key that were not used yet; then its oldest one goes
MAX_TICKETS = 4096  # of all keys; then the oldest one of the key that has the most goes


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a ticket stands for: the digest of its key (accounts.key_digest), and its origin, "" for no browser's."""

    key_digest: str
    origin: str


class TicketStore(Protocol):
    """Where tickets are until they are taken."""

    async def issue(self, ticket: Ticket) -> str:
        """A new name for the ticket: 43 letters, digits, hyphens and underscores."""
        ...

    async def take(self, name: str) -> Ticket | None:
        """The ticket of that name, once; None if it was taken, has expired or never was."""
        ...


class MemoryTickets:
    """The tickets of one gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tickets: OrderedDict[str, tuple[float, Ticket]] = OrderedDict()  # by hash, with the time of expiry

    async def issue(self, ticket: Ticket) -> str:
        name = secrets.token_urlsafe(32)
        self._forget_expired()
        own = [key for key, (_, other) in self._tickets.items() if other.key_digest == ticket.key_digest]
        if len(own) >= MAX_PER_KEY:
            del self._tickets[own[0]]
        elif len(self._tickets) >= MAX_TICKETS:
            ((most, _),) = Counter(other.key_digest for _, other in self._tickets.values()).most_common(1)
            del self._tickets[next(key for key, (_, other) in self._tickets.items() if other.key_digest == most)]
        self._tickets[hash_ticket(name)] = self._clock() + TICKET_SECONDS, ticket
        return name

    async def take(self, name: str) -> Ticket | None:
        self._forget_expired()
        found = self._tickets.pop(hash_ticket(name), None)
        return found and found[1]

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._tickets and next(iter(self._tickets.values()))[0] <= now:
            self._tickets.popitem(last=False)


def hash_ticket(name: str) -> str:
    """The form in which a ticket is stored."""
    return hashlib.sha256(name.encode()).hexdigest()
