"""Tickets in the shared store: a browser's WebSocket may reach another replica than the one that issued its ticket."""

from __future__ import annotations

import secrets

from gateway.agents.tickets import TICKET_SECONDS, MemoryTickets, Ticket, hash_ticket
from gateway.storage.shared_store import SharedStore, StoreDown

PREFIX = "edgedraft:ticket:"

_PUT = "redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])"
_TAKE = "return redis.call('GETDEL', KEYS[1])"


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
                _PUT, [PREFIX + hash_ticket(name)], [f"{ticket.key_digest} {ticket.origin}", TICKET_SECONDS]
            )
        except StoreDown:
            return await self._local.issue(ticket)
        return name

    async def take(self, name: str) -> Ticket | None:
        if (local := await self._local.take(name)) is not None:
            return local
        try:
            stored = await self._store.run(_TAKE, [PREFIX + hash_ticket(name)], [])
        except StoreDown:
            return None
        if stored is None:
            return None
        digest, _, origin = bytes(stored).decode().partition(" ")
        return Ticket(digest, origin)
