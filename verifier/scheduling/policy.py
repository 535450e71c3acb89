"""The scheduler's judgements as pure functions: how long to wait for a draft, how much to check, how wide a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgedraft.tree import DraftSlice
from verifier.scheduling.draft_arrivals import DraftArrivals

SMOOTHING = 0.2  # weight of the newest value in a running mean
LEAST_GAIN = 1.05
RIPENING = 2.0
WAITED_FOR = (1, 2, 4)  # depths of a draft
LEAST_PROMPT_ROWS = 16  # a prompt always gets on
SAVED_STEPS_KEPT = 4.0  # steps won by drafting that may be spent on waiting later
WAITED_ON_CREDIT = 0.5  # of a step, before anything was won: the rest lets drafts that come late be checked


def smoothed(mean: float | None, value: float) -> float:
    """The running mean after one more value."""
    return value if mean is None else mean + SMOOTHING * (value - mean)


@dataclass(frozen=True, slots=True)
class LatencyBudget:
    """How a session fares against datacenter-only decoding, in seconds; invariant 3 keeps `lead` above minus one step.

    Accepted tokens are steps saved, of which `share` may be spent on waiting for drafts; the rest is the client's.
    Waiting, and checking drafts, is time spent.
    """

    share: float

    saved_seconds: float = 0.0

    def after_wait(self, seconds: float) -> LatencyBudget:
        return replace(self, saved_seconds=self.saved_seconds - seconds)

    def after_step(self, accepted: int, extra_seconds: float, plain_seconds: float) -> LatencyBudget:
        """After a step that its draft made longer by `extra_seconds` than a plain decode's `plain_seconds`."""
        won = accepted * plain_seconds - extra_seconds
        lead = self.saved_seconds + (self.share * won if won > 0 else won)
        return replace(self, saved_seconds=min(lead, SAVED_STEPS_KEPT * plain_seconds))

    def may_check(self, plain_seconds: float) -> bool:
        """Whether drafts may still cost this session time: an agent whose guesses are wrong loses that right."""
        return self.saved_seconds > -plain_seconds

    def patience(self, plain_seconds: float, draft_delay: float | None, longest: float) -> float:
        """Seconds to wait for the next draft, 0 if it is not expected in time.

        `draft_delay` is how long this session's drafts usually take after a miss, None if that is not known yet.
        """
        allowed = min(longest, WAITED_ON_CREDIT * plain_seconds + self.saved_seconds)
        if allowed <= 0 or (draft_delay is not None and draft_delay > allowed):
            return 0.0
        return allowed


def worth_waiting(rhythm: DraftArrivals, delay: float, meanwhile: float, plain: float, checked: float) -> bool:
    """Whether sessions that have nothing to check get on faster by waiting `delay` seconds for drafts.

    A session is in one of two states, with drafts or without, and a step takes it from one to the other with the
    rhythm's chances. Waiting, each step is a checked one, and one in so many comes after a delay; going on, those
    without drafts decode at once, `meanwhile` tokens a step. Compared are tokens a second in the long run (renewal
    reward), for steps of `plain` and `checked` seconds.
    """
    lost = 1 - rhythm.kept_checked
    waiting = rhythm.tokens / (checked + lost * delay)
    going = (rhythm.kept_plain * rhythm.tokens + lost * meanwhile) / (rhythm.kept_plain * checked + lost * plain)
    return waiting > going


def drafting_pays(acceptance: float, sessions: int, seconds: Callable[[int], float]) -> bool:
    """Whether checking pays when all `sessions` draft with such an `acceptance`.

    Where steps have no arithmetic to spare it does not, and a session that waits is one fewer to share a step with.
    """
    plain = sessions / seconds(sessions)
    for depth in WAITED_FOR:
        right = sum(acceptance**i for i in range(1, depth + 1))
        if sessions * (1 + right) / seconds(sessions * (1 + depth)) > LEAST_GAIN * plain:
            return True
    return False


def worth_ripening(leaf: float, acceptance: float, plain_seconds: float, interval: float) -> bool:
    """Whether to wait `interval` for nodes below a draft whose most probable leaf is right with chance `leaf`.

    They save about `leaf` times `acceptance` tokens, each a plain step's seconds. That is a guess at a guess, so it
    must come to RIPENING times what the wait costs.
    """
    return leaf * acceptance * plain_seconds >= RIPENING * interval


def draft_window(acceptance: float, delay: float, widest: int) -> int:
    """How many uncommitted nodes an agent may hold when a fraction `acceptance` of its best guesses is right.

    Deep enough that the deepest guess has one chance in fifty, and as many again for siblings; and so much for each
    step that passes in the `delay`, in steps, between a miss and the drafts that answer it.
    """
    if acceptance >= 0.98:
        return widest
    depth = math.ceil(math.log(0.02) / math.log(max(acceptance, 0.05)))
    return max(8, min(widest, int(2 * depth * (1 + delay))))


def prompt_rows(base: int, most: int, delay: float, seconds: Callable[[int], float]) -> int:
    """How many rows of prompts, up to `most`, may join `base` running rows without adding more than `delay` seconds."""
    fits, too_many = min(LEAST_PROMPT_ROWS, most), most + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if seconds(base + middle) - seconds(base) <= delay:
            fits = middle
        else:
            too_many = middle
    return fits


def cost_beside_prefill(prompts: int, running: int, seconds: Callable[[int], float]) -> Callable[[int], float]:
    """What a step of so many rows takes beside `prompts` rows of prompts, the time of those `running` alone included.

    Prompts cost their time whatever else is in the step, so nodes are not to be judged by it: next to a long prompt
    every node would look cheap.
    """
    sunk = seconds(prompts + running) - seconds(running)
    return lambda rows: seconds(prompts + rows) - sunk


class SelectDraftNodes(Protocol):
    """Which nodes of the sessions' drafts go into a step; parameters are those of worth_checking."""

    def __call__(
        self,
        drafts: Mapping[int, DraftSlice],
        chances: Mapping[int, Sequence[float]],
        rows: int,
        tokens: float,
        most: int,
        seconds: Callable[[int], float],
    ) -> dict[int, list[int]]: ...


def goodput(
    drafts: Mapping[int, DraftSlice],
    chances: Mapping[int, Sequence[float]],
    rows: int,
    tokens: float,
    most: int,
    seconds: Callable[[int], float],
) -> dict[int, list[int]]:
    """The policy that verifiers run with."""
    return select_draft_nodes(chances, rows, tokens, most, seconds)


def select_draft_nodes(
    chances: Mapping[int, Sequence[float]], rows: int, tokens: float, most: int, seconds: Callable[[int], float]
) -> dict[int, list[int]]:
    """Which drafted nodes to check, `most` at most: those that make the step's committed tokens a second the most.

    chances[session][i] is the probability that node i of the session's slice is committed, never above its parent's.
    A step of `rows` rows would commit `tokens` tokens without any node; `seconds` tells what a step of so many rows
    takes. Steps cost in stairs, so every number of nodes is tried, most probable first. Chances and costs are
    estimates, and the best of many is mostly one that was estimated too well: so nodes must promise LEAST_GAIN over
    none at all. Returns ascending indices.
    """
    ranked = sorted((-chance, session, i) for session, row in chances.items() for i, chance in enumerate(row))
    best, count, expected = LEAST_GAIN * tokens / seconds(rows), 0, tokens
    for n, (chance, _, _) in enumerate(ranked[: max(0, most)], 1):
        expected -= chance
        if expected / seconds(rows + n) > best:
            best, count = expected / seconds(rows + n), n
    chosen: dict[int, list[int]] = {session: [] for session in chances}
    for _, session, i in ranked[:count]:
        chosen[session].append(i)
    return {session: sorted(nodes) for session, nodes in chosen.items()}
