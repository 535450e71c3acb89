"""Spend reservations over all replicas, in the shared store: what each running request of a key may cost at most.

A reservation has a lease, which its replica renews, so that those of a lost replica go. After its end a request leaves
its cost there until every replica has read it from the database. While the store is down each replica counts for
itself, so a key may then spend what each of them grants.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress

from gateway.ledger.ledger import SPEND_CACHE_SECONDS
from gateway.limits.spend import MemorySpendReservations, SpendReservation
from gateway.storage.shared_store import SharedStore, StoreDown

PREFIX = "edgedraft:spend:"
LEASE_SECONDS = 60.0
RENEW_SECONDS = 20.0
SETTLED_SECONDS = 2 * SPEND_CACHE_SECONDS

# One hash per key: "amount expires" by reservation, in nano-units and milliseconds of the server's clock.
_RESERVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = tonumber(ARGV[3])
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local amount, expires = string.match(entries[i + 1], '(%d+) (%d+)')
  if tonumber(expires) <= now then
    redis.call('HDEL', KEYS[1], entries[i])
  else
    left = left - amount
  end
end
local granted = math.min(tonumber(ARGV[2]), left)
if granted <= 0 then return '0' end
local text = string.format('%.0f', granted)
redis.call('HSET', KEYS[1], ARGV[1], text .. ' ' .. string.format('%.0f', now + ARGV[4]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return text
"""
_KEEP = """
local time = redis.call('TIME')
local expires = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. expires)
end
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[1], redis.call('PTTL', KEYS[1])))
"""


class SharedSpendReservations:
    """The reservations of all replicas. `run` renews those of this one."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._local = MemorySpendReservations()  # of this replica, all of them
        self._held: dict[str, dict[str, int]] = {}  # amounts by key and reservation
        self._settling: set[asyncio.Task[None]] = set()

    async def reserve(self, key_id: str, wanted: int, left: int) -> SpendReservation | None:
        name = uuid.uuid4().hex
        try:
            # If the caller is cancelled now, what is granted goes with its lease.
            granted = await self._store.run(_RESERVE, [_key(key_id)], [name, wanted, left, round(LEASE_SECONDS * 1000)])
        except StoreDown:
            granted = wanted
        if not int(granted):
            return None
        mine = await self._local.reserve(key_id, min(wanted, int(granted)), left)
        if mine is None:  # the store has lost reservations of this replica
            self._settle(key_id, name, 0)
            return None
        self._held.setdefault(key_id, {})[name] = mine.amount
        return SpendReservation(key_id, name, mine.amount)

    def settle(self, reservation: SpendReservation, cost: int) -> None:
        self._local.settle(reservation, cost)
        held = self._held[reservation.key_id]
        del held[reservation.name]
        if not held:
            del self._held[reservation.key_id]
        self._settle(reservation.key_id, reservation.name, cost)

    async def run(self) -> None:
        """Renews the leases until it is cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for key_id, held in list(self._held.items()):
                await self._keep(key_id, dict(held), LEASE_SECONDS)

    async def close(self) -> None:
        """Waits for what is being settled."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    def _settle(self, key_id: str, name: str, cost: int) -> None:
        task = asyncio.create_task(self._keep(key_id, {name: cost}, SETTLED_SECONDS))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _keep(self, key_id: str, amounts: Mapping[str, int], seconds: float) -> None:
        arguments = [part for name, amount in amounts.items() for part in (name, amount)]
        with suppress(StoreDown):  # then they go with their leases
            await self._store.run(_KEEP, [_key(key_id)], [round(seconds * 1000), *arguments])


def _key(key_id: str) -> str:
    return f"{PREFIX}{{{key_id}}}"
