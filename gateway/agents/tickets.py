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

from gateway.storage.shared_store import SharedStore, StoreDown

TICKET_SECONDS = 30
MAX_PER_KEY = 32  # tickets of one key that were not used yet; then its oldest one goes
MAX_TICKETS = 4096  # of all keys; then the oldest one of the key that has the most goes
PREFIX = "edgedraft:ticket:"

_PUT = "redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])"
_TAKE = "return redis.call('GETDEL', KEYS[1])"


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
        self._tickets[_hash(name)] = self._clock() + TICKET_SECONDS, ticket
        return name

    async def take(self, name: str) -> Ticket | None:
        self._forget_expired()
        found = self._tickets.pop(_hash(name), None)
        return found and found[1]

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._tickets and next(iter(self._tickets.values()))[0] <= now:
            self._tickets.popitem(last=False)


class SharedTickets:
    """The tickets of all replicas, so that each takes what another one has issued.

    While the store is down, a ticket opens a WebSocket only at the replica that issued it.
    """

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._local = MemoryTickets()

    async def issue(self, ticket: Ticket) -> str:
        name = secrets.token_urlsafe(32)
        try:
            await self._store.run(
                _PUT, [PREFIX + _hash(name)], [f"{ticket.key_digest} {ticket.origin}", TICKET_SECONDS]
            )
        except StoreDown:
            return await self._local.issue(ticket)
        return name

    async def take(self, name: str) -> Ticket | None:
        if (local := await self._local.take(name)) is not None:
            return local
        try:
            stored = await self._store.run(_TAKE, [PREFIX + _hash(name)], [])
        except StoreDown:
            return None
        if stored is None:
            return None
        digest, _, origin = bytes(stored).decode().partition(" ")
        return Ticket(digest, origin)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
