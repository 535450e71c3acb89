"""The scheduler's judgements as pure functions: how long to wait for a draft, how much to check, how wide a window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgedraft.tree import Slice

SMOOTHING = 0.2  # weight of the newest value in a running mean
SAVED_STEPS_KEPT = 4.0  # steps won by drafting that may be spent on waiting later


def smoothed(mean: float | None, value: float) -> float:
    """The running mean after one more value."""
    return value if mean is None else mean + SMOOTHING * (value - mean)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a session fares against datacenter-only decoding, in seconds; invariant 3 keeps `lead` above minus one step.

    Accepted tokens are steps saved; waiting for drafts and checking them is time spent.
    """

    lead: float = 0.0

    def after_wait(self, seconds: float) -> Pace:
        return Pace(self.lead - seconds)

    def after_step(self, accepted: int, extra_seconds: float, plain_seconds: float) -> Pace:
        """After a step that its draft made longer by `extra_seconds` than a plain decode's `plain_seconds`."""
        lead = self.lead + accepted * plain_seconds - extra_seconds
        return Pace(min(lead, SAVED_STEPS_KEPT * plain_seconds))

    def may_check(self, plain_seconds: float) -> bool:
        """Whether drafts may still cost this session time: an agent whose guesses are wrong loses that right."""
        return self.lead > -plain_seconds

    def patience(self, plain_seconds: float, draft_delay: float | None, longest: float) -> float:
        """Seconds to wait for the next draft, 0 if it is not expected in time.

        `draft_delay` is how long this session's drafts usually take after a miss, None if that is not known yet.
        """
        allowed = min(longest, plain_seconds + self.lead)
        if allowed <= 0 or (draft_delay is not None and draft_delay > allowed):
            return 0.0
        return allowed


def window(acceptance: float, widest: int) -> int:
    """How many uncommitted nodes an agent may hold when a fraction `acceptance` of its best guesses is right.

    Deep enough that the deepest guess has one chance in fifty, and as many again for siblings.
    """
    if acceptance >= 0.98:
        return widest
    depth = math.log(0.02) / math.log(max(acceptance, 0.05))
    return max(8, min(widest, 2 * math.ceil(depth)))


def share_nodes(drafts: Mapping[int, Slice], budget: int) -> dict[int, int]:
    """How many nodes of each session's draft to check, `budget` in all: the most confident paths first.

    A child's path costs no less than its parent's, so the most confident n of a session are connected.
    """
    ranked = sorted((cost, session) for session, draft in drafts.items() for cost in draft.costs)
    shares = dict.fromkeys(drafts, 0)
    for _, session in ranked[:budget]:
        shares[session] += 1
    return shares
