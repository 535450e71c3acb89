"""Rate limits over all replicas: the buckets of rate_limits.py in the shared store, updated by a Lua script.

One call is one script, however many buckets it names. While the store is down each replica counts for itself, so a
limit then holds per replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.limits.rate_limits import MemoryRateStore, RateStore, TakeResult, Use, take_result
from gateway.storage.shared_store import SharedStore, StoreDown

PREFIX = "edgedraft:rate:"
MAX_CHARGING = 1024  # charges in flight; further ones go to the local buckets

# ARGV: the number of keys that are charged, which come first; then amount and limit of each key. A bucket may be among
# the charged ones and the others. A full bucket expires, which loses no information. All replicas use the server's
# clock.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local charged = tonumber(ARGV[1])

local function read(i)
  local limit = tonumber(ARGV[2 * i + 1])
  local bucket = redis.call('HMGET', KEYS[i], 'level', 'at', 'limit')
  if not bucket[1] then return limit, limit end
  return math.min(limit, bucket[1] + limit - bucket[3] + (now - bucket[2]) * limit / 60), limit
end

local function write(i, level, limit)
  local text = string.format('%.6f', level)
  redis.call('HSET', KEYS[i], 'level', text, 'at', string.format('%.6f', now), 'limit', limit)
  redis.call('PEXPIRE', KEYS[i], math.ceil((limit - level) * 60000 / limit) + 1000)
  return text
end

for i = 1, charged do
  local level, limit = read(i)
  write(i, math.min(limit, level - ARGV[2 * i]), limit)
end

local levels, limits, granted, all = {}, {}, {}, true
for i = charged + 1, #KEYS do
  levels[i], limits[i] = read(i)
  granted[i] = tonumber(ARGV[2 * i]) <= levels[i]
  all = all and granted[i]
end
local results = {}
for i = charged + 1, #KEYS do
  if all then levels[i] = levels[i] - ARGV[2 * i] end
  results[#results + 1] = granted[i] and 1 or 0
  results[#results + 1] = write(i, levels[i], limits[i])
end
return results
"""


class SharedRateStore(RateStore):
    """The buckets of all replicas. Falls back to buckets of this process while the store is down."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._local = MemoryRateStore()
        self._charging: set[asyncio.Task[None]] = set()

    async def take(self, takes: Sequence[Use], charges: Sequence[Use] = ()) -> list[TakeResult]:
        try:
            found = await self._run_script(takes, charges)
        except StoreDown:
            return await self._local.take(takes, charges)
        return [
            take_result(float(level), use.amount, use.per_minute, bool(granted))
            for use, granted, level in zip(takes, found[::2], found[1::2], strict=True)
        ]

    def charge(self, charges: Sequence[Use]) -> None:
        if len(self._charging) >= MAX_CHARGING:
            self._local.charge(charges)
            return
        task = asyncio.create_task(self._charge(charges))
        self._charging.add(task)
        task.add_done_callback(self._charging.discard)

    async def close(self) -> None:
        """Waits for charges in flight."""
        await asyncio.gather(*self._charging, return_exceptions=True)

    async def _charge(self, charges: Sequence[Use]) -> None:
        try:
            await self._run_script((), charges)
        except StoreDown:
            self._local.charge(charges)

    async def _run_script(self, takes: Sequence[Use], charges: Sequence[Use]) -> list[str | int]:
        uses = [*charges, *takes]
        arguments = [number for use in uses for number in (use.amount, use.per_minute)]
        return await self._store.run(_SCRIPT, [PREFIX + use.bucket for use in uses], [len(charges), *arguments])
