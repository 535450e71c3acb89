"""A scheduler without a step-start rule, which subclasses add: sessions, prompts and node selection for the simulator.

It has what a comparison of step-start rules needs of verifier/scheduling and no more: no queue, no tenants, no learned
calibration (the oracle's probabilities are exact).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from edgedraft.tree import EMPTY_DRAFT, DraftSlice, DraftTree
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open, confidence_probability
from loadtest.simulator.verifier import LIMITS
from verifier.engine.interface import Engine, Request, ScheduledSession, StepResult, count_prompt_tokens
from verifier.scheduling.forecast import Forecast
from verifier.scheduling.policy import running_mean, step_prompt_tokens
from verifier.scheduling.scheduler import SchedulerOutput
from verifier.scheduling.step_costs import StepCosts


@dataclass
class SimpleSession:
    """`committed_at` is when its last step ended; `group` is used by subclasses."""

    prompt: tuple[int, ...]
    tree: DraftTree
    num_uncomputed: int
    group: int
    committed_at: float = -inf


class SimpleScheduler(ABC):
    """loadtest.simulator.verifier.StepScheduler."""

    def __init__(self, engine: Engine, window: int = MAX_WINDOW) -> None:
        """`window`: how many uncommitted nodes an agent may hold."""
        self.step_costs = StepCosts()
        self._engine, self._window = engine, window
        self._sessions: dict[int, SimpleSession] = {}
        self._forecast = Forecast()
        self._last_nodes = 0.0  # of steps without prompts, a running mean

    @abstractmethod
    def start(self, decoding: Sequence[int], now: float) -> tuple[Sequence[int], float | None]:
        """Which of the `decoding` sessions step now. If none does: when to ask again, None for after the next event."""

    @abstractmethod
    def draft(self, session: SimpleSession) -> DraftSlice:
        """The nodes of a session from which some are selected."""

    @abstractmethod
    def count_nodes(self, probabilities: Sequence[float], rows: int, tokens: int) -> int:
        """How many draft nodes to verify, by their path probabilities in descending order.

        Without them the step has `rows` rows and commits `tokens` tokens.
        """

    def group_of_new(self) -> int:
        """The group of a session that is opened."""
        return 0

    def open(self, key: int, message: Open, now: float) -> None:
        eos, prior = frozenset(message.eos), tuple(message.committed)
        prompt = tuple(message.prompt)
        request = Request(key, prompt, message.sampling, message.max_tokens, eos, prior, message.salt)
        uncomputed = self._engine.open(request)
        tree = DraftTree(MAX_WINDOW, message.committed, message.epoch)
        self._sessions[key] = SimpleSession(prompt, tree, uncomputed, self.group_of_new())

    def add_draft(self, key: int, message: Draft, now: float) -> None:
        if session := self._sessions.get(key):
            session.tree.add(
                message.epoch, message.at, message.first, message.tokens, message.parents, message.confidence
            )

    def close(self, key: int) -> None:
        if self._sessions.pop(key, None):
            self._engine.close(key)

    def schedule(self, now: float) -> SchedulerOutput:
        decoding = [key for key, session in self._sessions.items() if session.num_uncomputed <= 1]
        prompts = [key for key, session in self._sessions.items() if session.num_uncomputed > 1]
        stepping, wake_at = self.start(decoding, now)
        num_tokens = dict.fromkeys(stepping, 1)
        delay = LIMITS.prompt_delay if decoding else inf
        left = step_prompt_tokens(
            [self._sessions[key].num_uncomputed for key in prompts],
            len(stepping),
            rows=len(stepping) + round(self._last_nodes),
            sessions=len(self._sessions),
            room=LIMITS.step_tokens,
            delay=delay,
            rate=self._forecast.time_value(len(self._sessions)),
            seconds=self.step_costs.seconds,
        )
        for key in prompts:
            if left > 0:
                num_tokens[key] = min(left, self._sessions[key].num_uncomputed)
                left -= num_tokens[key]
        if not num_tokens:
            return SchedulerOutput([], wake_at)
        # A step that completes a prompt also verifies what was drafted meanwhile.
        sampling = [key for key, count in num_tokens.items() if count >= self._sessions[key].num_uncomputed]
        drafts = self._select({key: self.draft(self._sessions[key]) for key in sampling}, sum(num_tokens.values()))
        return SchedulerOutput(
            [ScheduledSession(key, count, drafts.get(key, EMPTY_DRAFT)) for key, count in num_tokens.items()], None
        )

    def _select(self, drafts: Mapping[int, DraftSlice], rows: int) -> dict[int, DraftSlice]:
        ranked = sorted(
            (-confidence_probability(cost), key, i)
            for key, draft in drafts.items()
            for i, cost in enumerate(draft.costs)
        )
        count = self.count_nodes([-negative for negative, _, _ in ranked], rows, len(drafts))
        nodes: dict[int, list[int]] = {}
        for _, key, i in ranked[:count]:
            nodes.setdefault(key, []).append(i)
        return {key: drafts[key].subset(sorted(indices)) for key, indices in nodes.items()}

    def update(
        self, scheduled: Sequence[ScheduledSession], results: Sequence[StepResult], began: float, now: float
    ) -> dict[int, Commit]:
        self.step_costs.record(sum(item.num_tokens + len(item.draft) for item in scheduled), now - began)
        prompt_tokens = count_prompt_tokens(scheduled)
        others = sum(1 + len(item.draft) for item in scheduled if item.num_tokens == 1)
        prompt_seconds = self.step_costs.prompt_seconds(prompt_tokens, others)
        committed = sum(len(result.tokens) for result in results)
        self._forecast.record_step(len(self._sessions), committed, now - began, prompt_seconds)
        if all(item.num_tokens == 1 for item in scheduled):
            nodes = sum(len(item.draft) for item in scheduled)
            self._last_nodes = running_mean(self._last_nodes, nodes)
        commits: dict[int, Commit] = {}
        for result in results:
            session = self._sessions[result.session]
            session.num_uncomputed = result.num_uncomputed
            if not result.tokens and result.finish is None:
                continue
            session.committed_at = now
            at = len(session.tree.committed)
            session.tree.commit(at, result.tokens)
            commits[result.session] = Commit(
                session=result.session,
                at=at,
                tokens=list(result.tokens),
                window=self._window,
                nodes=result.nodes,
                depth=result.depth,
                accepted=result.accepted,
                finish=result.finish,
            )
            if result.finish:
                self.close(result.session)
        return commits


def count_for_rate(
    probabilities: Sequence[float], rows: int, tokens: int, seconds: Callable[[int], float], rate: float | None
) -> int:
    """The number of most probable nodes with the highest expected tokens per second of this step.

    With `rate`, the tokens per second of the whole run, the number that gains most over it: tokens - rate * seconds.
    This maximises the run's rate (Dinkelbach 1967), to which steps of different yield contribute.
    """
    best, count, expected = -inf, 0, float(tokens)
    for n in range(len(probabilities) + 1):
        if n:
            expected += probabilities[n - 1]
        taken = seconds(rows + n)
        gain = expected / taken if rate is None else expected - rate * taken
        if gain > best:
            best, count = gain, n
    return count
