"""An engine without a model; a scheduler over it on a simulated clock; an engine loop over it in its thread."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Any

from edgedraft.wire import Close, Commit, Draft, Open, Queued, Sampling
from verifier.engine.interface import Capacity, Overloaded, Request, RequestRejected, ScheduledSession, StepResult
from verifier.engine_loop import EngineLoop, Reply
from verifier.metrics import Metrics
from verifier.scheduling.scheduler import Scheduler, SchedulerLimits
from verifier.traces import SessionSpans

STEP = 0.04
LIMITS = SchedulerLimits(step_tokens=64, verify_nodes=8, prompt_delay=0.3, draft_wait=0.5, wait_share=0.5)


class CountingEngine:
    """An engine of at most `max_sessions` whose output counts up from 1, whatever the prompt."""

    supports_trees = True
    vocab_size = 1000
    context_length = 1000

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.num_uncomputed: dict[int, int] = {}
        self.last_token: dict[int, int] = {}
        self.max_tokens: dict[int, int] = {}

    def precompile(self, sampling: Sampling, share: str) -> object:
        return None

    def validate(self, request: Request) -> None:
        if len(request.prompt) > self.context_length:
            raise RequestRejected("too long")

    def open(self, request: Request) -> int:
        if len(self.num_uncomputed) >= self.max_sessions:
            raise Overloaded("full")
        self.num_uncomputed[request.session] = len(request.prompt)
        self.last_token[request.session] = 0
        self.max_tokens[request.session] = request.max_tokens
        return len(request.prompt)

    def step(self, scheduled: Sequence[ScheduledSession]) -> list[StepResult]:
        return [self._result(item) for item in scheduled]

    def _result(self, item: ScheduledSession) -> StepResult:
        key = item.session
        self.num_uncomputed[key] -= item.num_tokens
        if self.num_uncomputed[key]:
            return StepResult(key, (), self.num_uncomputed[key], seconds=0.02)
        tokens, accepted, node = [self.last_token[key] + 1], 0, -1
        for i, (token, parent) in enumerate(zip(item.draft.tokens, item.draft.parents, strict=True)):
            if parent == node and token == tokens[-1]:
                node, accepted = i, accepted + 1
                tokens.append(token + 1)
        self.last_token[key] = tokens[-1]
        self.num_uncomputed[key] = 1
        finish = "length" if self.last_token[key] >= self.max_tokens[key] else None
        depth = max(item.draft.depths, default=0)
        return StepResult(key, tuple(tokens), 1, len(item.draft), depth, accepted, 0.01, finish)

    def close(self, session: int) -> None:
        self.num_uncomputed.pop(session, None)

    def capacity(self) -> Capacity:
        return Capacity(1, 1, 1)


class SchedulerSim:
    """A scheduler over a CountingEngine on a simulated clock. By default all steps cost the same."""

    def __init__(
        self, limits: SchedulerLimits = LIMITS, costs: Callable[[int], float] = lambda _: STEP, max_sessions: int = 64
    ) -> None:
        self.now = 100.0
        self.costs = costs
        self.scheduler = Scheduler(CountingEngine(max_sessions), limits)
        for rows in range(1, 70):
            self.scheduler.step_costs.record(rows, costs(rows))

    def open(self, key: int, prompt: int = 1, tokens: int = 500, agent: str = "", **more: Any) -> int | None:
        message = Open(key, [0] * prompt, Sampling(temperature=0), tokens, agent=agent, **more)
        return self.scheduler.open(key, message, self.now)

    def draft(self, key: int, at: int, epoch: int, tokens: Sequence[int]) -> None:
        chain = list(range(len(tokens)))
        self.scheduler.add_draft(key, Draft(key, epoch, at, 1, list(tokens), chain, bytes(len(tokens))), self.now)

    def step(self, seconds: float = STEP) -> dict[int, Commit]:
        output = self.scheduler.schedule(self.now)
        assert output.scheduled, "a step is scheduled"
        began, self.now = self.now, self.now + seconds
        return self.scheduler.update(output.scheduled, self.scheduler._engine.step(output.scheduled), began, self.now)

    def step_or_wait(self) -> dict[int, Commit]:
        """Run a step, or advance the clock to when one may be scheduled."""
        output = self.scheduler.schedule(self.now)
        if output.scheduled:
            return self.step()
        self.now = output.wake_at or self.now
        return {}

    def decode_three(self, key: int) -> int:
        """Run three steps; returns the number of tokens that session `key` has committed."""
        return [self.step()[key].at + 1 for _ in range(3)][-1]


class LoopRunner:
    """An engine loop in its thread, whose replies can be waited for."""

    def __init__(
        self, engine: CountingEngine, limits: SchedulerLimits = LIMITS, spans: SessionSpans | None = None
    ) -> None:
        self.metrics = Metrics("toy")
        self.replies: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.loop = EngineLoop(engine, limits, self._deliver, self.metrics, spans)

    def next(self) -> tuple[int, Any]:
        """The next reply and its link."""
        return self.replies.get(timeout=60)

    def until_end(self, session: int, link: int = 1) -> list[Commit | Queued | Close]:
        """The session's replies up to the one that ends it; those of others are dropped."""
        seen: list[Commit | Queued | Close] = []
        while not seen or not (isinstance(seen[-1], Close) or (isinstance(seen[-1], Commit) and seen[-1].finish)):
            number, reply = self.next()
            if (number, reply.session) == (link, session):
                seen.append(reply)
        return seen

    def _deliver(self, replies: Sequence[tuple[int, Reply]]) -> None:
        for reply in replies:
            self.replies.put(reply)
