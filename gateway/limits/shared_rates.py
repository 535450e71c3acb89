"""Rate limits over all replicas: the buckets of rate_limits.py in the shared store, updated by a Lua script.

While the store is down each replica counts for itself, so a limit then holds per replica.
"""

from __future__ import annotations

import asyncio

from gateway.limits.rate_limits import MINUTE, MemoryRateStore, RateStore, TakeResult
from gateway.storage.shared_store import SharedStore, StoreDown

PREFIX = "edgedraft:rate:"
MAX_RETURNING = 1024  # give_back calls in flight; further ones go to the local buckets

# A full bucket expires, which loses no information. All replicas use the server's clock.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local amount, limit, always = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local bucket = redis.call('HMGET', KEYS[1], 'level', 'at', 'limit')
local level = limit
if bucket[1] then
  level = math.min(limit, bucket[1] + limit - bucket[3] + (now - bucket[2]) * limit / 60)
end
local granted = always or amount <= level
if granted then level = math.min(limit, level - amount) end
local text = string.format('%.6f', level)
redis.call('HSET', KEYS[1], 'level', text, 'at', string.format('%.6f', now), 'limit', ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.ceil((limit - level) * 60000 / limit) + 1000)
return {granted and 1 or 0, text}
"""


class SharedRateStore(RateStore):
    """The buckets of all replicas. Falls back to buckets of this process while the store is down."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._local = MemoryRateStore()
        self._returning: set[asyncio.Task[None]] = set()

    async def take(self, bucket: str, amount: int, per_minute: int) -> TakeResult:
        try:
            granted, level = await self._run_script(bucket, amount, per_minute, always=False)
        except StoreDown:
            return await self._local.take(bucket, amount, per_minute)
        reset = (per_minute - level) * MINUTE / per_minute
        wait = 0.0 if granted else (amount - level) * MINUTE / per_minute
        return TakeResult(granted, max(0, int(level)), reset, wait)

    def give_back(self, bucket: str, amount: int, per_minute: int) -> None:
        if len(self._returning) >= MAX_RETURNING:
            self._local.give_back(bucket, amount, per_minute)
            return
        task = asyncio.create_task(self._give_back(bucket, amount, per_minute))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def close(self) -> None:
        """Waits for give_back calls in flight."""
        await asyncio.gather(*self._returning, return_exceptions=True)

    async def _give_back(self, bucket: str, amount: int, per_minute: int) -> None:
        try:
            await self._run_script(bucket, -amount, per_minute, always=True)
        except StoreDown:
            self._local.give_back(bucket, amount, per_minute)

    async def _run_script(self, bucket: str, amount: int, per_minute: int, always: bool) -> tuple[bool, float]:
        granted, level = await self._store.run(_SCRIPT, [PREFIX + bucket], [amount, per_minute, int(always)])
        return bool(granted), float(level)
