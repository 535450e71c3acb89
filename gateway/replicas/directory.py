"""The directory of replicas and of whose agents they have: leases, and one hash per owner, in the shared store.

A replica holds one lease, not one per agent. It is renewed every second under a name that the process has chosen at
random, and when it expires, all entries under that name do. Entries are hints: whether a session may have an agent is
decided by the replica that the agent is attached to.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress

from gateway.accounts import Owner
from gateway.agents.link import AgentLink
from gateway.storage.shared_store import SharedStore, StoreDown

RENEW_SECONDS = 1.0
LEASE_SECONDS = 5.0
OWNER_TTL = 3600  # seconds that an owner's hash is kept after its last announcement
REFRESH_SECONDS = 1200.0  # between two announcements of the same agent
BATCH_SIZE = 64  # agents that are announced at once when all are
UNLIMITED = 1 << 30  # agents of one owner, for those that are attached already
REPLICAS, ATTACHED, AGENTS = "edgedraft:replicas", "edgedraft:attached", "edgedraft:agents:"

_NOW = "local time = redis.call('TIME')\nlocal now = time[1] + time[2] / 1000000\n"

# Renews a lease; returns whether it was still held, the time, and owners with agents attached since `ARGV[3]`.
_RENEW = f"""{_NOW}
local until_before = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60)
local held = until_before and tonumber(until_before) > now
local attached = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[3], '+inf')
return {{held and 1 or 0, string.format('%.6f', now), attached}}
"""

# Sets `live` to the addresses of replicas with a lease, and `entries` to an owner's fields and values.
_LIVE = f"""{_NOW}
local live = {{}}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf')) do
  local id, address = member:match('^(%S+) (.*)$')
  live[id] = address
end
local entries = redis.call('HGETALL', KEYS[1])
"""

# Enters an agent, unless its owner has as many as are allowed.
_ANNOUNCE = f"""{_LIVE}
local count = 0
for i = 1, #entries, 2 do
  if not live[entries[i]:match('^[^/]+')] then redis.call('HDEL', KEYS[1], entries[i])
  elseif entries[i] ~= ARGV[1] then count = count + 1 end
end
if count >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[3], now, ARGV[5])
return 1
"""

_WITHDRAW = "return redis.call('HDEL', KEYS[1], ARGV[1])"

# The addresses of other replicas that have agents of an owner, each followed by the value of one agent's entry.
_FIND = f"""{_LIVE}
local found = {{}}
for i = 1, #entries, 2 do
  local id = entries[i]:match('^[^/]+')
  if not live[id] then redis.call('HDEL', KEYS[1], entries[i])
  elseif id ~= ARGV[1] then
    found[#found + 1] = live[id]
    found[#found + 1] = entries[i + 1]
  end
end
return found
"""

_LEAVE = "return redis.call('ZREM', KEYS[1], ARGV[1])"


def owner_key(owner: Owner) -> str:
    """A hash that stands for an owner in the store, which so holds no names."""
    return hashlib.sha256("\0".join(owner).encode()).hexdigest()[:32]


class Directory:
    """This replica's entries and its view of the others'."""

    def __init__(
        self, store: SharedStore, address: str, per_owner: int, on_attached: Callable[[list[str]], None]
    ) -> None:
        """`on_attached` is called with the owner_keys of agents that were attached to any replica."""
        self._store = store
        self._address = address
        self._per_owner = per_owner
        self._on_attached = on_attached
        self._name = secrets.token_hex(8)
        self._agents: dict[AgentLink, None] = {}
        self._since = "-inf"
        self._outdated = True  # the store may lack entries, or have wrong ones, under this name
        self._leaving = False
        self._announcing: asyncio.Task[None] | None = None
        self._withdrawing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        clock = asyncio.get_running_loop().time
        refreshed_at = clock()
        while True:
            try:
                await self.renew()
                if clock() - refreshed_at > REFRESH_SECONDS:
                    self._announce_all_soon()
                    refreshed_at = clock()
            except StoreDown:
                self._outdated = True
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Renew the lease and report new agents. Raises StoreDown."""
        if self._outdated and not self._leaving:
            await self._start_over()
        lease = 0 if self._leaving else LEASE_SECONDS
        held, now, attached = await self._store.run(_RENEW, [REPLICAS, ATTACHED], [self._member, lease, self._since])
        self._since = f"{float(now) - RENEW_SECONDS / 2:.6f}"  # overlaps: two scripts may run at the same time
        if not held and not self._leaving:
            await self._start_over()
        self._on_attached([key.decode() for key in attached])

    async def stop(self) -> None:
        """Wait for withdrawals that are under way."""
        if self._announcing:
            self._announcing.cancel()
        await asyncio.gather(*filter(None, (self._announcing, *self._withdrawing)), return_exceptions=True)

    async def announce(self, agent: AgentLink) -> bool:
        """Enter an agent. False if its owner has as many as are allowed, at all replicas together."""
        self._agents[agent] = None
        try:
            granted = await self._announce(agent, self._per_owner)
        except StoreDown:
            self._outdated = True
            return True
        if not granted:
            self._agents.pop(agent, None)
        return granted

    def withdraw(self, agent: AgentLink) -> None:
        """Remove the entry of an agent that has detached."""
        if agent in self._agents:
            del self._agents[agent]
            task = asyncio.create_task(self._withdraw(agent))
            self._withdrawing.add(task)
            task.add_done_callback(self._withdrawing.discard)

    async def find(self, owner: Owner, fingerprint: str) -> dict[str, int]:
        """Addresses of the other replicas with agents for this owner and tokenizer, and their numbers of slots.

        Raises StoreDown.
        """
        found = await self._store.run(_FIND, [AGENTS + owner_key(owner), REPLICAS], [self._name])
        slots: defaultdict[str, int] = defaultdict(int)
        for address, entry in zip(found[::2], found[1::2], strict=True):
            tokenizer, _, max_sessions = entry.decode().rpartition(" ")
            if tokenizer == fingerprint:
                slots[address.decode()] += int(max_sessions)
        return dict(slots)

    async def leave(self) -> None:
        """Give the lease back: no replica finds agents here any more, while this one still finds theirs."""
        self._leaving = True
        with suppress(StoreDown):
            await self._store.run(_LEAVE, [REPLICAS], [self._member])

    @property
    def _member(self) -> str:
        return f"{self._name} {self._address}"

    async def _start_over(self) -> None:
        """Take a new name, so that entries under the old one, which may be wrong by now, expire."""
        await self._store.run(_LEAVE, [REPLICAS], [self._member])
        self._name = secrets.token_hex(8)
        await self._store.run(_RENEW, [REPLICAS, ATTACHED], [self._member, LEASE_SECONDS, "+inf"])
        self._outdated = False
        self._announce_all_soon()

    def _announce_all_soon(self) -> None:
        """In a task, as renewing the lease must not wait for many agents."""
        if self._announcing:
            self._announcing.cancel()
        self._announcing = asyncio.create_task(self._announce_all())

    async def _announce_all(self) -> None:
        agents = list(self._agents)
        try:
            for start in range(0, len(agents), BATCH_SIZE):
                batch = [agent for agent in agents[start : start + BATCH_SIZE] if agent in self._agents]
                await asyncio.gather(*(self._announce(agent, UNLIMITED) for agent in batch))
        except StoreDown:
            self._outdated = True

    async def _announce(self, agent: AgentLink, at_most: int) -> bool:
        key = owner_key(agent.owner)
        entry = f"{agent.fingerprint} {agent.max_sessions}"
        arguments = [f"{self._name}/{agent.agent}", entry, at_most, OWNER_TTL, key]
        granted = bool(await self._store.run(_ANNOUNCE, [AGENTS + key, REPLICAS, ATTACHED], arguments))
        if agent not in self._agents:  # it detached meanwhile
            await self._withdraw(agent)
        return granted

    async def _withdraw(self, agent: AgentLink) -> None:
        try:
            await self._store.run(_WITHDRAW, [AGENTS + owner_key(agent.owner)], [f"{self._name}/{agent.agent}"])
        except StoreDown:
            self._outdated = True
