"""Calibration of draft confidences: how often draft tokens of each confidence turned out to be the target's choice.

A trial is a node whose parent was committed: it is then either the target's token or not. Older trials lose weight, so
that changes of a draft model are learned. Each source of drafts (an agent, a tenant's predictions, prompt lookup) has
trials of its own, so an overconfident agent affects only itself. The prior of a new source is what all sources together
have shown, and before any trial the confidence itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from edgedraft.tree import DraftSlice
from edgedraft.wire import confidence_probability
from verifier.scheduling.draft_growth import DraftGrowth

BUCKET_WIDTH = 8  # confidence bytes per bucket: half a bit of probability
PRIOR_TRIALS = 10.0  # weight of the prior in trials
INITIAL_MAX_NODES = 8  # verified at once for a source without trials
MAX_SOURCES = 1024  # least recently used ones are forgotten
DECAY = 0.998  # weight left to a bucket's trials after each new one


class Calibration:
    """One source's trials and hits by bucket of confidence. `prior` maps a confidence byte to a probability."""

    def __init__(
        self, prior: Callable[[int], float] = confidence_probability, growth: DraftGrowth | None = None
    ) -> None:
        self.growth = growth or DraftGrowth()
        self._prior = prior
        self._trials = [0.0] * (256 // BUCKET_WIDTH)
        self._hits = [0.0] * (256 // BUCKET_WIDTH)

    @property
    def max_nodes(self) -> int:
        """How many of the source's nodes one step verifies at most: a slow start that grows with its trials."""
        return INITIAL_MAX_NODES + int(sum(self._trials))

    def acceptance_probability(self, confidence: int) -> float:
        """The probability that a node of this confidence byte is accepted, given that its parent is."""
        bucket = min(confidence, 255) // BUCKET_WIDTH
        prior = PRIOR_TRIALS * self._prior(confidence)
        return min(1.0, (self._hits[bucket] + prior) / (self._trials[bucket] + PRIOR_TRIALS))

    def path_probabilities(self, draft: DraftSlice) -> list[float]:
        """For each node the probability that it and all its ancestors are accepted."""
        path: list[float] = []
        for i, parent in enumerate(draft.parents):
            probability = self.acceptance_probability(_confidence(draft, i))
            path.append(probability * (path[parent] if parent >= 0 else 1.0))
        return path

    def record_verification(self, draft: DraftSlice, tokens: Sequence[int]) -> None:
        """Add the trials of a verified draft, given the tokens that were committed."""
        followed_by: dict[int, int] = {-1: 0}  # node on the committed path -> index of the token after it
        for i, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
            index = followed_by.get(parent)
            if index is None or index >= len(tokens):
                continue
            hit = token == tokens[index]
            if hit:
                followed_by[i] = index + 1
            bucket = min(_confidence(draft, i), 255) // BUCKET_WIDTH
            self._trials[bucket] = DECAY * self._trials[bucket] + 1
            self._hits[bucket] = DECAY * self._hits[bucket] + hit


class Calibrations:
    """The calibrations of all sources by name, bounded to MAX_SOURCES."""

    def __init__(self) -> None:
        self._overall = Calibration()
        self._by_source: OrderedDict[str, Calibration] = OrderedDict()

    def get(self, source: str) -> Calibration:
        """The source's calibration, a new one if it is unknown."""
        calibration = self._by_source.get(source)
        if calibration is None:
            calibration = Calibration(self._overall.acceptance_probability, self._overall.growth.copy())
            self._by_source[source] = calibration
        self._by_source.move_to_end(source)
        if len(self._by_source) > MAX_SOURCES:
            self._by_source.popitem(last=False)
        return calibration

    def record_verification(self, source: str, draft: DraftSlice, tokens: Sequence[int]) -> None:
        """Add the trials of a verified draft of `source` (Calibration.record_verification)."""
        self.get(source).record_verification(draft, tokens)
        self._overall.record_verification(draft, tokens)

    def record_growth(self, source: str, record: Callable[[DraftGrowth], None]) -> None:
        """Add a measurement of drafts of `source` with `record`, to its own growth and that of all sources."""
        for calibration in (self.get(source), self._overall):
            record(calibration.growth)


def _confidence(draft: DraftSlice, node: int) -> int:
    parent = draft.parents[node]
    return draft.costs[node] - (draft.costs[parent] if parent >= 0 else 0)
