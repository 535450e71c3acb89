"""A service of any size, simulated session by session: requests, agents attaching, heartbeats, load on the stores.

A running stream is a constant rate (service_size.py), its beginning and end are events, so a million agents are
simulated in seconds. It adds to service_size.py the random distribution: some gateways get more than their share. Load
balancers are assumed to choose at random, and each owner to have one agent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.scale.costs import Costs
from loadtest.scale.measure import StoreCosts
from loadtest.scale.service_size import Assumptions, ServiceSize
from loadtest.simulator.clock import Clock

HEARTBEAT_SECONDS = 1.0  # of a replica
SECONDS = 20


@dataclass
class StoreQueue:
    """A store with one thread: requests wait for those before them."""

    idle_at: float = 0.0
    busy: float = 0.0
    scripts: int = 0
    waits: list[float] = field(default_factory=list)

    def run(self, now: float, seconds: float, scripts: int = 1) -> None:
        self.waits.append(max(0.0, self.idle_at - now))
        self.idle_at = max(self.idle_at, now) + seconds
        self.busy += seconds
        self.scripts += scripts


@dataclass(frozen=True)
class ServiceLoad:
    """Shares of one core (gateways: mean, 99th percentile, maximum over gateways and seconds) and rates per second."""

    gateway: float
    gateway_p99: float
    gateway_most: float
    sockets_most: int
    scripts: float
    redis: float
    redis_wait_p99: float  # seconds
    transactions: float
    postgres: float
    requests: float


class ServiceSimulation:
    """Starts in the steady state: as many streams as there are on average."""

    def __init__(
        self, size: ServiceSize, assumptions: Assumptions, costs: Costs, stores: StoreCosts, seed: int = 0
    ) -> None:
        self._size, self._assumptions, self._costs, self._store_costs = size, assumptions, costs, stores
        self._rng = random.Random(seed)
        self._clock = Clock()
        self._redis, self._transactions, self._postgres = StoreQueue(), 0.0, 0.0
        gateways = range(size.gateways)
        self._host = self._rng.choices(gateways, k=size.agents)  # the gateway of each agent
        self._agents = [0] * size.gateways
        for gateway in self._host:
            self._agents[gateway] += 1
        self._home_streams, self._hosted_streams = [0] * size.gateways, [0] * size.gateways
        self._new_requests = [0] * size.gateways
        self._requests = 0
        self._samples: list[float] = []
        self._sockets = 0

    def run(self, seconds: int = SECONDS) -> ServiceLoad:
        size, clock = self._size, self._clock
        for _ in range(size.streams):
            self._start_stream(self._rng.uniform(0, self._assumptions.stream_seconds))
        self._requests, self._new_requests = 0, [0] * size.gateways
        self._redis, self._transactions, self._postgres = StoreQueue(), 0.0, 0.0
        self._schedule_request()
        self._schedule_attach()
        for _ in range(size.gateways):
            self._repeat(HEARTBEAT_SECONDS, self._heartbeat, self._rng.random())
        self._repeat(1.0, self._sample, 1.0)
        clock.run(lambda: clock.now >= seconds)
        per, ordered = self._store_costs, sorted(self._samples)
        waits = sorted(self._redis.waits)
        return ServiceLoad(
            gateway=sum(ordered) / len(ordered),
            gateway_p99=ordered[int(0.99 * (len(ordered) - 1))],
            gateway_most=ordered[-1],
            sockets_most=self._sockets,
            scripts=self._redis.scripts / seconds,
            redis=self._redis.busy / seconds,
            redis_wait_p99=waits[int(0.99 * (len(waits) - 1))] if waits else 0.0,
            transactions=self._transactions / seconds
            + size.gateways * per.second.transactions
            + size.agents * per.agent.transactions,
            postgres=self._postgres / seconds + size.gateways * per.second.postgres + size.agents * per.agent.postgres,
            requests=self._requests / seconds,
        )

    def _schedule_request(self) -> None:
        def arrived() -> None:
            self._start_stream(self._assumptions.stream_seconds)
            self._schedule_request()

        self._clock.call_later(self._rng.expovariate(self._size.streams / self._assumptions.stream_seconds), arrived)

    def _start_stream(self, seconds: float) -> None:
        home = self._rng.randrange(self._size.gateways)
        host = self._host[self._rng.randrange(self._size.agents)]
        self._requests += 1
        self._new_requests[home] += 1
        self._home_streams[home] += 1
        request = self._store_costs.request
        scripts = round(request.scripts)
        if host != home:
            self._hosted_streams[host] += 1
            scripts += 1  # the agent directory
        per_script = request.redis / max(1.0, request.scripts)
        self._redis.run(self._clock.now, scripts * per_script, scripts)
        self._transactions += request.transactions
        self._postgres += request.postgres

        def ended() -> None:
            self._home_streams[home] -= 1
            if host != home:
                self._hosted_streams[host] -= 1

        self._clock.call_later(seconds, ended)

    def _schedule_attach(self) -> None:
        """Some agent leaves its gateway, and one attaches to a random one."""

        def moved() -> None:
            agent, gateway = self._rng.randrange(self._size.agents), self._rng.randrange(self._size.gateways)
            self._agents[self._host[agent]] -= 1
            self._agents[gateway] += 1
            self._host[agent] = gateway
            self._redis.run(self._clock.now, 2 * self._store_costs.attach.redis, 2)
            self._transactions += self._store_costs.attach.transactions
            self._schedule_attach()

        self._clock.call_later(self._rng.expovariate(self._size.agents / self._assumptions.attached_seconds), moved)

    def _heartbeat(self) -> None:
        second = self._store_costs.second
        seconds = second.redis / max(1e-9, second.scripts)
        self._redis.run(self._clock.now, seconds, round(second.scripts * HEARTBEAT_SECONDS))

    def _sample(self) -> None:
        size, costs = self._size, self._costs
        for number in range(size.gateways):
            self._samples.append(
                costs.second
                + self._agents[number] * costs.agent
                + self._home_streams[number] * size.home
                + self._hosted_streams[number] * size.host
                + self._new_requests[number] * costs.request
            )
            self._sockets = max(self._sockets, self._agents[number] + self._home_streams[number])
        self._new_requests = [0] * size.gateways

    def _repeat(self, seconds: float, call: Callable[[], None], first: float) -> None:
        def again() -> None:
            call()
            self._clock.call_later(seconds, again)

        self._clock.call_later(first, again)
