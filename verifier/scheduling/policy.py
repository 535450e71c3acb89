"""The scheduler's rules as pure functions: how long to wait for drafts, which nodes to verify, how wide a window is.

Probabilities, costs and delays are estimates of calibration.py, step_costs.py and draft_arrivals.py. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgedraft.tree import DraftSlice

NEWEST_WEIGHT = 0.2  # of the newest value in a running mean
MIN_GAIN = 1.4  # tokens that a node must promise, per token that its time is worth; see select_draft_nodes
MIN_PROMPT_TOKENS = 16  # per step, whatever they cost: a prompt always makes progress
MIN_WINDOW, WINDOW_PER_NODE = 8, 16  # found by `edgedraft bench policy`
MAX_PROMPT_STEPS = 8  # over which prompts are spread while other sessions decode
MAX_SAVED_STEPS = 4.0  # plain steps of saved time that a session may hold for later waits
# Plain steps that a session may wait before drafts have saved any time. The other half of the step that invariant 3
# allows is left for verifying drafts that arrive late.
INITIAL_WAIT_STEPS = 0.5


def running_mean(mean: float | None, value: float, weight: float = NEWEST_WEIGHT) -> float:
    """The exponentially weighted mean after one more value; None is the mean of no values."""
    return value if mean is None else mean + weight * (value - mean)


@dataclass(frozen=True, slots=True)
class LatencyBudget:
    """How far a session is ahead of datacenter-only decoding, in seconds: `saved_seconds`, negative if it is behind.

    Each accepted token saves a plain step, of which `wait_share` may be spent on waiting for drafts; the rest
    shortens the response. Waiting and verifying cost time. Invariant 3: `saved_seconds` stays above minus a plain step.
    """

    wait_share: float

    saved_seconds: float = 0.0

    def after_wait(self, seconds: float) -> LatencyBudget:
        return replace(self, saved_seconds=self.saved_seconds - seconds)

    def after_step(self, accepted: int, extra_seconds: float, plain_seconds: float) -> LatencyBudget:
        """After a step in which this session's nodes took `extra_seconds` more than a plain step's `plain_seconds`."""
        gain = accepted * plain_seconds - extra_seconds
        saved = self.saved_seconds + (self.wait_share * gain if gain > 0 else gain)
        return replace(self, saved_seconds=min(saved, MAX_SAVED_STEPS * plain_seconds))

    def may_verify_drafts(self, extra_seconds: float, plain_seconds: float) -> bool:
        """Whether nodes may be verified that make the step `extra_seconds` longer.

        False where their rejection would put the session more than a plain step behind.
        """
        return self.saved_seconds - extra_seconds >= -plain_seconds

    def max_draft_wait(self, plain_seconds: float, limit: float) -> float:
        """Seconds that a step may be put off for drafts, at most `limit`."""
        return max(0.0, min(limit, INITIAL_WAIT_STEPS * plain_seconds + self.saved_seconds))


def draft_window(nodes_per_session: float, max_window: int) -> int:
    """How many uncommitted nodes an agent may hold, when steps verify `nodes_per_session` of a session's nodes.

    WINDOW_PER_NODE for each of them and for the decoded token: what is not verified is what the next commit may end at.
    """
    return max(MIN_WINDOW, min(max_window, round(WINDOW_PER_NODE * (1 + nodes_per_session))))


def prompt_token_budget(running_rows: int, limit: int, delay: float, seconds: Callable[[int], float]) -> int:
    """How many prompt tokens, at most `limit`, may join `running_rows` without making the step `delay` s longer."""
    fits, too_many = min(MIN_PROMPT_TOKENS, limit), limit + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if seconds(running_rows + middle) - seconds(running_rows) <= delay:
            fits = middle
        else:
            too_many = middle
    return fits


def prompt_chunk(
    prompt_tokens: int, prompts: int, rows: int, sessions: int, rate: float, seconds: Callable[[int], float]
) -> int:
    """How many of `prompt_tokens` to compute in this step beside `rows` other rows, so that the fewest tokens are lost.

    Computed at once, a prompt makes one step long for all `sessions`; spread over several, it takes room that those
    steps have to spare, and its own session starts later. A second is worth `rate` tokens, and the engine's rate shared
    by its sessions to each of the `prompts` that wait. The prompts are spread over at most MAX_PROMPT_STEPS steps.
    """
    best, chunk = math.inf, prompt_tokens
    for steps in range(1, MAX_PROMPT_STEPS + 1):
        size = -(-prompt_tokens // steps)
        longer = seconds(rows + size) - seconds(rows)
        lost = rate * steps * longer + rate / sessions * prompts * (steps - 1) * (seconds(rows) + longer)
        if lost < best:
            best, chunk = lost, size
    return max(chunk, MIN_PROMPT_TOKENS)


def step_prompt_tokens(
    prompts: Sequence[int],
    running: int,
    rows: int,
    sessions: int,
    room: int,
    delay: float,
    rate: float,
    seconds: Callable[[int], float],
) -> int:
    """How many tokens of `prompts` (the tokens left of each) the next step computes, at most `room`.

    Beside `running` rows prompt_token_budget bounds them and prompt_chunk chooses them; `rows` is how many rows such
    steps usually have, draft nodes included. Other parameters as there.
    """
    budget = prompt_token_budget(running, room, delay, seconds)
    if not prompts or not running:
        return budget
    return min(budget, prompt_chunk(sum(prompts), len(prompts), rows, sessions, rate, seconds))


def cost_beside_prefill(
    prompt_tokens: int, running_rows: int, seconds: Callable[[int], float]
) -> Callable[[int], float]:
    """A cost function of rows for a step that also computes `prompt_tokens`, without the time that those add.

    The prompt tokens cost their time whatever else is in the step. With that time included every node would look cheap
    beside a long prompt.
    """
    alone, beside = seconds(running_rows), seconds(prompt_tokens + running_rows)
    return lambda rows: alone + (seconds(prompt_tokens + rows) - beside)  # in this order: never rounded to 0


class SelectDraftNodes(Protocol):
    """A policy that selects nodes of the sessions' drafts for a step; parameters as in select_draft_nodes."""

    def __call__(
        self,
        drafts: Mapping[int, DraftSlice],
        probabilities: Mapping[int, Sequence[float]],
        rows: int,
        tokens: float,
        max_nodes: int,
        seconds: Callable[[int], float],
        rate: float = 0.0,
    ) -> dict[int, list[int]]: ...


def select_for_goodput(
    drafts: Mapping[int, DraftSlice],
    probabilities: Mapping[int, Sequence[float]],
    rows: int,
    tokens: float,
    max_nodes: int,
    seconds: Callable[[int], float],
    rate: float = 0.0,
) -> dict[int, list[int]]:
    """The default policy: select_draft_nodes, which needs the probabilities only."""
    return select_draft_nodes(probabilities, rows, tokens, max_nodes, seconds, rate)


def select_draft_nodes(
    probabilities: Mapping[int, Sequence[float]],
    rows: int,
    tokens: float,
    max_nodes: int,
    seconds: Callable[[int], float],
    rate: float = 0.0,
) -> dict[int, list[int]]:
    """The nodes, at most `max_nodes`, that are worth more tokens than the time they add to the step.

    probabilities[session][i] is the probability that node i of the session's slice is committed, never above its
    parent's. Without nodes the step has `rows` rows and commits `tokens` tokens; `seconds` maps rows to its duration. A
    second is worth `rate` tokens, the engine's long-run rate, or what the step itself commits per second without nodes
    if that is more. Step costs rise in stairs, so every number of nodes is tried, most probable nodes first. Nodes must
    promise MIN_GAIN times what they cost: the best of many estimates tends to be an overestimate, and a node that is
    not verified is not lost, since the step may end at it and find what is drafted below. Returns ascending node
    indices by session.
    """
    ranked = sorted((-p, session, i) for session, row in probabilities.items() for i, p in enumerate(row))
    plain = seconds(rows)
    price = MIN_GAIN * max(rate, tokens / plain)
    best, count, expected = 0.0, 0, 0.0
    for n, (negative_probability, _, _) in enumerate(ranked[: max(0, max_nodes)], 1):
        expected -= negative_probability
        worth = expected - price * (seconds(rows + n) - plain)
        if worth > best:
            best, count = worth, n
    selected: dict[int, list[int]] = {session: [] for session in probabilities}
    for _, session, i in ranked[:count]:
        selected[session].append(i)
    return {session: sorted(nodes) for session, nodes in selected.items()}
