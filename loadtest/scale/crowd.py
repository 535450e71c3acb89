"""A whole service, session by session: requests come and go, agents attach and leave, gateways beat, stores are asked.

What a stream costs while it runs is a rate (service.py); what begins and ends is an event. So a million agents are
simulated in seconds, with the chance that service.py knows nothing of: some gateways have more than their share.
Balancers are taken to choose by chance, and each owner to have one agent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtest.scale.costs import Costs
from loadtest.scale.measure import StoreUse
from loadtest.scale.service import Assumed, Service
from loadtest.seed.clock import Clock

BEATS = 1.0  # seconds between two of a replica
SECONDS = 20


@dataclass
class Queue:
    """A store's one thread: who asks waits for those before."""

    free: float = 0.0
    busy: float = 0.0
    asked: int = 0
    waits: list[float] = field(default_factory=list)

    def ask(self, now: float, seconds: float, times: int = 1) -> None:
        self.waits.append(max(0.0, self.free - now))
        self.free = max(self.free, now) + seconds
        self.busy += seconds
        self.asked += times


@dataclass(frozen=True)
class Seen:
    """Shares of one core; of gateways the mean, the one in a hundred that is busiest, and the busiest in any second."""

    gateway: float
    gateway_99: float
    gateway_most: float
    sockets_most: int
    scripts: float
    redis: float
    redis_wait_99: float
    transactions: float
    postgres: float
    requests: float


class Crowd:
    """Starts in the middle of it: as many streams as there are on average."""

    def __init__(self, service: Service, assumed: Assumed, costs: Costs, stores: StoreUse, seed: int = 0) -> None:
        self._service, self._assumed, self._costs, self._use = service, assumed, costs, stores
        self._dice = random.Random(seed)
        self._clock = Clock()
        self._redis, self._transactions, self._postgres = Queue(), 0.0, 0.0
        gateways = range(service.gateways)
        self._place = self._dice.choices(gateways, k=service.agents)  # where each agent is attached
        self._agents = [0] * service.gateways
        for place in self._place:
            self._agents[place] += 1
        self._home, self._lends = [0] * service.gateways, [0] * service.gateways
        self._begun = [0] * service.gateways
        self._requests = 0
        self._samples: list[float] = []
        self._sockets = 0

    def run(self, seconds: int = SECONDS) -> Seen:
        service, clock = self._service, self._clock
        for _ in range(service.streams):
            self._begin(self._dice.uniform(0, self._assumed.lasts))
        self._requests, self._begun = 0, [0] * service.gateways
        self._redis, self._transactions, self._postgres = Queue(), 0.0, 0.0
        self._arrive()
        self._attach()
        for _ in range(service.gateways):
            self._every(BEATS, self._beat, self._dice.random())
        self._every(1.0, self._sample, 1.0)
        clock.run(lambda: clock.now >= seconds)
        use, ordered = self._use, sorted(self._samples)
        waits = sorted(self._redis.waits)
        return Seen(
            sum(ordered) / len(ordered),
            ordered[int(0.99 * (len(ordered) - 1))],
            ordered[-1],
            self._sockets,
            self._redis.asked / seconds,
            self._redis.busy / seconds,
            waits[int(0.99 * (len(waits) - 1))] if waits else 0.0,
            self._transactions / seconds + service.gateways * use.second.transactions + self._rechecks("transactions"),
            self._postgres / seconds + service.gateways * use.second.postgres + self._rechecks("postgres"),
            self._requests / seconds,
        )

    def _rechecks(self, of: str) -> float:
        return self._service.agents * getattr(self._use.agent, of)

    def _arrive(self) -> None:
        def arrived() -> None:
            self._begin(self._assumed.lasts)
            self._arrive()

        self._clock.after(self._dice.expovariate(self._service.streams / self._assumed.lasts), arrived)

    def _begin(self, lasts: float) -> None:
        home = self._dice.randrange(self._service.gateways)
        lender = self._place[self._dice.randrange(self._service.agents)]
        self._requests += 1
        self._begun[home] += 1
        self._home[home] += 1
        request = self._use.request
        scripts = round(request.scripts)
        if lender != home:
            self._lends[lender] += 1
            scripts += 1  # the directory is asked
        per_script = request.redis / max(1.0, request.scripts)
        self._redis.ask(self._clock.now, scripts * per_script, scripts)
        self._transactions += request.transactions
        self._postgres += request.postgres

        def ended() -> None:
            self._home[home] -= 1
            if lender != home:
                self._lends[lender] -= 1

        self._clock.after(lasts, ended)

    def _attach(self) -> None:
        """An agent leaves and another one comes, somewhere."""

        def changed() -> None:
            agent, place = self._dice.randrange(self._service.agents), self._dice.randrange(self._service.gateways)
            self._agents[self._place[agent]] -= 1
            self._agents[place] += 1
            self._place[agent] = place
            self._redis.ask(self._clock.now, 2 * self._use.attach.redis, 2)
            self._transactions += self._use.attach.transactions
            self._attach()

        self._clock.after(self._dice.expovariate(self._service.agents / self._assumed.attached), changed)

    def _beat(self) -> None:
        second = self._use.second
        self._redis.ask(self._clock.now, second.redis / max(1e-9, second.scripts), round(second.scripts * BEATS))

    def _sample(self) -> None:
        service, costs = self._service, self._costs
        for number in range(service.gateways):
            self._samples.append(
                costs.second
                + self._agents[number] * costs.agent
                + self._home[number] * service.home
                + self._lends[number] * service.lender
                + self._begun[number] * costs.request
            )
            self._sockets = max(self._sockets, self._agents[number] + self._home[number])
        self._begun = [0] * service.gateways

    def _every(self, seconds: float, do: Callable[[], None], first: float) -> None:
        def again() -> None:
            do()
            self._clock.after(seconds, again)

        self._clock.after(first, again)
