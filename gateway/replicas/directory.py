"""Which replicas there are and whose agents they have: leases and a hash an owner, in the shared store.

A replica holds one lease, not one an agent: it is renewed every second under a name that this process has for itself,
and with it lapses all that was said under that name. What is found here is a hint. Whether a session may have an agent
is for the replica to say that holds the agent's link.
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
KEPT_SECONDS = 3600  # that an owner's hash is kept after the last agent of theirs was told of
SAID_AGAIN_SECONDS = 1200.0
TOGETHER = 64  # agents that are said at once when all are
ANY = 1 << 30  # agents of one owner, for those that were let in before
REPLICAS, NEWS, AGENTS = "edgedraft:replicas", "edgedraft:attached", "edgedraft:agents:"

_NOW = "local time = redis.call('TIME')\nlocal now = time[1] + time[2] / 1000000\n"

# Renews a lease; tells whether it was still held, the time, and whose agents were attached anywhere since `since`.
_BEAT = f"""{_NOW}
local until_before = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60)
local held = until_before and tonumber(until_before) > now
local news = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[3], '+inf')
return {{held and 1 or 0, string.format('%.6f', now), news}}
"""

_LIVE = f"""{_NOW}
local live = {{}}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf')) do
  local id, address = member:match('^(%S+) (.*)$')
  live[id] = address
end
local said = redis.call('HGETALL', KEYS[1])
"""

# Says that an agent is here, unless its owner has as many as are allowed.
_ANNOUNCE = f"""{_LIVE}
local count = 0
for i = 1, #said, 2 do
  if not live[said[i]:match('^[^/]+')] then redis.call('HDEL', KEYS[1], said[i])
  elseif said[i] ~= ARGV[1] then count = count + 1 end
end
if count >= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[3], now, ARGV[5])
return 1
"""

_WITHDRAW = "return redis.call('HDEL', KEYS[1], ARGV[1])"

# The addresses of other replicas that have agents of this owner, each with what was said of one agent.
_FIND = f"""{_LIVE}
local found = {{}}
for i = 1, #said, 2 do
  local id = said[i]:match('^[^/]+')
  if not live[id] then redis.call('HDEL', KEYS[1], said[i])
  elseif id ~= ARGV[1] then
    found[#found + 1] = live[id]
    found[#found + 1] = said[i + 1]
  end
end
return found
"""

_LEAVE = "return redis.call('ZREM', KEYS[1], ARGV[1])"


def owner_key(owner: Owner) -> str:
    """What stands for an owner in the store, which need not know names."""
    return hashlib.sha256("\0".join(owner).encode()).hexdigest()[:32]


class Directory:
    """This replica's entry and its view of the others'. `attached` is told the owner_keys of new agents anywhere."""

    def __init__(self, store: SharedStore, address: str, per_owner: int, attached: Callable[[list[str]], None]) -> None:
        self._store = store
        self._address = address
        self._per_owner = per_owner
        self._attached = attached
        self._name = secrets.token_hex(8)
        self._agents: dict[AgentLink, None] = {}
        self._since = "-inf"
        self._out_of_date = True
        self._leaving = False
        self._saying: asyncio.Task[None] | None = None
        self._withdrawing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep the lease, for ever."""
        clock = asyncio.get_running_loop().time
        said_at = clock()
        while True:
            try:
                await self.renew()
                if clock() - said_at > SAID_AGAIN_SECONDS:
                    self._say_all_soon()
                    said_at = clock()
            except StoreDown:
                self._out_of_date = True
            await asyncio.sleep(RENEW_SECONDS)

    async def renew(self) -> None:
        """Renew the lease, and learn what is new. Raises StoreDown."""
        if self._out_of_date and not self._leaving:
            await self._begin_anew()
        lease = 0 if self._leaving else LEASE_SECONDS
        held, now, news = await self._store.run(_BEAT, [REPLICAS, NEWS], [self._member, lease, self._since])
        self._since = f"{float(now) - RENEW_SECONDS / 2:.6f}"  # a little twice: two scripts may have the same time
        if not held and not self._leaving:
            await self._begin_anew()
        self._attached([key.decode() for key in news])

    async def stop(self) -> None:
        """Wait for what is being said."""
        if self._saying:
            self._saying.cancel()
        await asyncio.gather(*filter(None, (self._saying, *self._withdrawing)), return_exceptions=True)

    async def announce(self, agent: AgentLink) -> bool:
        """Say that it is attached here. False when its owner has as many as are allowed, at all replicas together."""
        self._agents[agent] = None
        try:
            granted = await self._say(agent, self._per_owner)
        except StoreDown:
            self._out_of_date = True
            return True
        if not granted:
            self._agents.pop(agent, None)
        return granted

    def withdraw(self, agent: AgentLink) -> None:
        """It has gone."""
        if agent in self._agents:
            del self._agents[agent]
            task = asyncio.create_task(self._withdraw(agent))
            self._withdrawing.add(task)
            task.add_done_callback(self._withdrawing.discard)

    async def find(self, owner: Owner, fingerprint: str) -> dict[str, int]:
        """Addresses of the other replicas that may lend an agent, with how many sessions theirs take.

        Raises StoreDown.
        """
        found = await self._store.run(_FIND, [AGENTS + owner_key(owner), REPLICAS], [self._name])
        sizes: defaultdict[str, int] = defaultdict(int)
        for address, said in zip(found[::2], found[1::2], strict=True):
            tokenizer, _, max_sessions = said.decode().rpartition(" ")
            if tokenizer == fingerprint:
                sizes[address.decode()] += int(max_sessions)
        return dict(sizes)

    async def leave(self) -> None:
        """Give the lease back: from now on nobody looks here, while this replica goes on looking elsewhere."""
        self._leaving = True
        with suppress(StoreDown):
            await self._store.run(_LEAVE, [REPLICAS], [self._member])

    @property
    def _member(self) -> str:
        return f"{self._name} {self._address}"

    async def _begin_anew(self) -> None:
        """Under a new name: what was said under the old one, and may be wrong by now, lapses."""
        await self._store.run(_LEAVE, [REPLICAS], [self._member])
        self._name = secrets.token_hex(8)
        await self._store.run(_BEAT, [REPLICAS, NEWS], [self._member, LEASE_SECONDS, "+inf"])
        self._out_of_date = False
        self._say_all_soon()

    def _say_all_soon(self) -> None:
        """Beside the beat, which must not wait for many agents."""
        if self._saying:
            self._saying.cancel()
        self._saying = asyncio.create_task(self._say_all())

    async def _say_all(self) -> None:
        agents = list(self._agents)
        try:
            for start in range(0, len(agents), TOGETHER):
                some = [agent for agent in agents[start : start + TOGETHER] if agent in self._agents]
                await asyncio.gather(*(self._say(agent, ANY) for agent in some))
        except StoreDown:
            self._out_of_date = True

    async def _say(self, agent: AgentLink, at_most: int) -> bool:
        key = owner_key(agent.owner)
        said = f"{agent.fingerprint} {agent.max_sessions}"
        arguments = [f"{self._name}/{agent.agent}", said, at_most, KEPT_SECONDS, key]
        granted = bool(await self._store.run(_ANNOUNCE, [AGENTS + key, REPLICAS, NEWS], arguments))
        if agent not in self._agents:  # it went meanwhile
            await self._withdraw(agent)
        return granted

    async def _withdraw(self, agent: AgentLink) -> None:
        try:
            await self._store.run(_WITHDRAW, [AGENTS + owner_key(agent.owner)], [f"{self._name}/{agent.agent}"])
        except StoreDown:
            self._out_of_date = True
