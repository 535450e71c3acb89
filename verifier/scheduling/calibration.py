"""What a drafter's confidence is worth: from the bytes that it sends to how often such guesses were right.

A guess whose parent was committed is either the target's choice or not; those are the trials. Old ones fade, so that a
drafter that changes is learnt anew. Each agent has a record of its own, so that nobody pays for another's boasting;
until it has trials, what everybody's confidence has been worth speaks for it, and before that the drafter's own word.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgedraft.tree import DraftSlice
from edgedraft.wire import confidence_probability
from verifier.scheduling.draft_arrivals import DraftArrivals

BUCKET = 8  # confidence bytes in a bucket: half a bit of probability
PRIOR_TRIALS = 10.0
FIRST_NODES = 8  # of a drafter that nothing is known of
KEPT = 1024  # drafters remembered
FADING = 0.998  # weight left to a trial after the next one of its bucket


class Calibration:
    """One drafter's trials and hits by bucket of confidence; `prior` tells a byte's worth while they are few."""

    def __init__(
        self, prior: Callable[[int], float] = confidence_probability, rhythm: DraftArrivals | None = None
    ) -> None:
        self.rhythm = rhythm or DraftArrivals()
        self._prior = prior
        self._trials = [0.0] * (256 // BUCKET)
        self._hits = [0.0] * (256 // BUCKET)

    @property
    def trust(self) -> int:
        """How many of its nodes to check at once, by how many were put to the test: a slow start."""
        return FIRST_NODES + int(sum(self._trials))

    def chance(self, confidence: int) -> float:
        """The probability that a guess of this confidence byte is right, its parent being so."""
        bucket = min(confidence, 255) // BUCKET
        prior = PRIOR_TRIALS * self._prior(confidence)
        return min(1.0, (self._hits[bucket] + prior) / (self._trials[bucket] + PRIOR_TRIALS))

    def chances(self, draft: DraftSlice) -> list[float]:
        """For each node the probability that it and all above it are right."""
        path: list[float] = []
        for i, parent in enumerate(draft.parents):
            path.append(self.chance(_confidence(draft, i)) * (path[parent] if parent >= 0 else 1.0))
        return path

    def observe(self, draft: DraftSlice, tokens: Sequence[int]) -> None:
        """Learn from a checked draft and the tokens that were committed."""
        at: dict[int, int] = {-1: 0}  # node on the committed path -> index of the token that follows it
        for i, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            index = at.get(parent)
            if index is None or index >= len(tokens):
                continue
            hit = token == tokens[index]
            if hit:
                at[i] = index + 1
            bucket = min(_confidence(draft, i), 255) // BUCKET
            self._trials[bucket] = FADING * self._trials[bucket] + 1
            self._hits[bucket] = FADING * self._hits[bucket] + hit


class Calibrations:
    """The drafters' records, those of the KEPT that were asked for last."""

    def __init__(self) -> None:
        self._everybody = Calibration()
        self._agents: OrderedDict[str, Calibration] = OrderedDict()

    def of(self, agent: str) -> Calibration:
        record = self._agents.get(agent)
        if record is None:
            record = self._agents[agent] = Calibration(self._everybody.chance, replace(self._everybody.rhythm))
        self._agents.move_to_end(agent)
        if len(self._agents) > KEPT:
            self._agents.popitem(last=False)
        return record

    def observe(self, agent: str, draft: DraftSlice, tokens: Sequence[int]) -> None:
        """Learn from a checked draft of that agent's."""
        self.of(agent).observe(draft, tokens)
        self._everybody.observe(draft, tokens)

    def stepped(self, agent: str, nodes: int, tokens: int, kept: bool) -> None:
        """Learn from a step of a session of that agent's (Rhythm.stepped)."""
        for record in (self.of(agent), self._everybody):
            record.rhythm.stepped(nodes, tokens, kept)

    def drafted(self, agent: str, delay: float) -> None:
        """Learn from that agent's draft after a miss (Rhythm.drafted)."""
        for record in (self.of(agent), self._everybody):
            record.rhythm.drafted(delay)


def _confidence(draft: DraftSlice, node: int) -> int:
    parent = draft.parents[node]
    return draft.costs[node] - (draft.costs[parent] if parent >= 0 else 0)
