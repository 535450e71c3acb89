"""The scheduler's rules as pure functions: how long to wait for drafts, which nodes to verify, how wide a window is.

Probabilities, costs and delays are estimates of calibration.py, step_costs.py and draft_arrivals.py. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgedraft.tree import DraftSlice
from verifier.scheduling.draft_arrivals import DraftArrivals

NEWEST_WEIGHT = 0.2  # of the newest value in a running mean
MIN_GAIN = 1.05  # ratio of tokens per second that verifying must promise over plain decoding
MIN_SAVING_TO_WAIT_RATIO = 2.0  # expected seconds saved by deeper nodes, per second of waiting for them
PROBED_DEPTHS = (1, 2, 4)  # draft depths at which verification_pays compares
MIN_PROMPT_TOKENS = 16  # per step, whatever they cost: a prompt always makes progress
MAX_SAVED_STEPS = 4.0  # plain steps of saved time that a session may hold for later waits
# Plain steps that a session may wait before drafts have saved any time. The other half of the step that invariant 3
# allows is left for verifying drafts that arrive late.
INITIAL_WAIT_STEPS = 0.5


def running_mean(mean: float | None, value: float) -> float:
    """The exponentially weighted mean after one more value; None is the mean of no values."""
    return value if mean is None else mean + NEWEST_WEIGHT * (value - mean)


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

    def may_verify_drafts(self, plain_seconds: float) -> bool:
        """Whether drafts may be verified; False once rejected drafts have put the session a plain step behind."""
        return self.saved_seconds > -plain_seconds

    def max_draft_wait(self, plain_seconds: float, draft_delay: float | None, limit: float) -> float:
        """Seconds to wait for the next draft, at most `limit`; 0 if it is not expected within that time.

        `draft_delay` is how long this session's drafts usually take when none is ready, None if that is unknown.
        """
        allowed = min(limit, INITIAL_WAIT_STEPS * plain_seconds + self.saved_seconds)
        if allowed <= 0 or (draft_delay is not None and draft_delay > allowed):
            return 0.0
        return allowed


def should_wait_for_draft(
    arrivals: DraftArrivals, delay: float, tokens_without_draft: float, plain_seconds: float, verify_seconds: float
) -> bool:
    """Whether sessions without a draft commit more tokens per second by waiting `delay` for one than by stepping now.

    Two policies are compared by their long-run rate (renewal reward). Waiting: every step is a verify step of
    `verify_seconds`, and one that leaves no draft is followed by the delay. Not waiting: sessions without a draft step
    at once, in `plain_seconds` for `tokens_without_draft` tokens. How often a draft is ready after each kind of step is
    taken from `arrivals`.
    """
    no_draft = 1 - arrivals.draft_ready_after_verify
    ready = arrivals.draft_ready_after_decode
    waiting = arrivals.tokens_per_verify / (verify_seconds + no_draft * delay)
    tokens = ready * arrivals.tokens_per_verify + no_draft * tokens_without_draft
    return waiting > tokens / (ready * verify_seconds + no_draft * plain_seconds)


def verification_pays(acceptance: float, sessions: int, seconds: Callable[[int], float]) -> bool:
    """Whether verifying raises the tokens per second if all `sessions` have drafts with this `acceptance` rate.

    It does not where plain steps are compute-bound already. `seconds` maps a step's rows to its duration.
    """
    plain = sessions / seconds(sessions)
    for depth in PROBED_DEPTHS:
        accepted = sum(acceptance**i for i in range(1, depth + 1))
        if sessions * (1 + accepted) / seconds(sessions * (1 + depth)) > MIN_GAIN * plain:
            return True
    return False


def should_wait_for_deeper_draft(
    leaf_probability: float, acceptance: float, plain_seconds: float, interval: float
) -> bool:
    """Whether to wait `interval` seconds for nodes below a draft whose most probable leaf has `leaf_probability`.

    Deeper nodes save about leaf_probability * acceptance tokens, each worth a plain step. Both factors are estimates,
    so the saving must be MIN_SAVING_TO_WAIT_RATIO times the wait.
    """
    return leaf_probability * acceptance * plain_seconds >= MIN_SAVING_TO_WAIT_RATIO * interval


def draft_window(acceptance: float, delay_steps: float, max_window: int) -> int:
    """How many uncommitted nodes an agent may hold, when a fraction `acceptance` of its most likely tokens is accepted.

    Twice the depth at which the most likely path has a probability of 2 %, so that there are siblings too, and as much
    again for each step that passes between a commit that leaves no draft and the next draft (`delay_steps`).
    """
    if acceptance >= 0.98:
        return max_window
    depth = math.ceil(math.log(0.02) / math.log(max(acceptance, 0.05)))
    return max(8, min(max_window, int(2 * depth * (1 + delay_steps))))


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


def cost_beside_prefill(
    prompt_tokens: int, running_rows: int, seconds: Callable[[int], float]
) -> Callable[[int], float]:
    """A cost function of rows for a step that also computes `prompt_tokens`, without the time that those add.

    The prompt tokens cost their time whatever else is in the step. With that time included every node would look cheap
    beside a long prompt.
    """
    prefill_seconds = seconds(prompt_tokens + running_rows) - seconds(running_rows)
    return lambda rows: seconds(prompt_tokens + rows) - prefill_seconds


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
    ) -> dict[int, list[int]]: ...


def select_for_goodput(
    drafts: Mapping[int, DraftSlice],
    probabilities: Mapping[int, Sequence[float]],
    rows: int,
    tokens: float,
    max_nodes: int,
    seconds: Callable[[int], float],
) -> dict[int, list[int]]:
    """The default policy: select_draft_nodes, which needs the probabilities only."""
    return select_draft_nodes(probabilities, rows, tokens, max_nodes, seconds)


def select_draft_nodes(
    probabilities: Mapping[int, Sequence[float]],
    rows: int,
    tokens: float,
    max_nodes: int,
    seconds: Callable[[int], float],
) -> dict[int, list[int]]:
    """The nodes, at most `max_nodes`, that maximise the step's expected committed tokens per second (its goodput).

    probabilities[session][i] is the probability that node i of the session's slice is committed, never above its
    parent's. Without nodes the step has `rows` rows and commits `tokens` tokens; `seconds` maps rows to its duration.
    Step costs rise in stairs, so every number of nodes is tried, most probable nodes first. The best of many estimates
    tends to be an overestimate, so nodes must promise MIN_GAIN over none. Returns ascending node indices by session.
    """
    ranked = sorted((-p, session, i) for session, row in probabilities.items() for i, p in enumerate(row))
    best, count, expected = MIN_GAIN * tokens / seconds(rows), 0, tokens
    for n, (negative_probability, _, _) in enumerate(ranked[: max(0, max_nodes)], 1):
        expected -= negative_probability
        if expected / seconds(rows + n) > best:
            best, count = expected / seconds(rows + n), n
    selected: dict[int, list[int]] = {session: [] for session in probabilities}
    for _, session, i in ranked[:count]:
        selected[session].append(i)
    return {session: sorted(nodes) for session, nodes in selected.items()}
