"""How one source's drafts grow: how soon after a commit, how fast, and what they are worth by then.

A draft's value is the number of its tokens that the next step is expected to accept, less the price of verifying them
(step_start.py). The price of a row changes with the load, so values are measured at several prices at once, per source
and for all sources together as the prior of a new one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgedraft.wire import MAX_WINDOW
from verifier.scheduling.policy import running_mean

MAX_FRAMES = 24  # of a draft's growth that are foreseen
GROUP = 8  # numbers of nodes beyond this are told apart in groups of so many
NUM_BUCKETS = GROUP + MAX_WINDOW // GROUP
MIN_ADDED = 0.1  # nodes of a frame, so that a draft's number of nodes always grows with its frames
PRICES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])  # of a row, in tokens, at which values are measured
DELAY_WEIGHT = 0.1  # of the newest value in a running mean
VALUE_WEIGHT = 0.05

Values = NDArray[np.float64]
NO_GAINS = np.zeros(len(PRICES))


@dataclass(slots=True)
class DraftGrowth:
    """Running means.

    `delay`: seconds from a commit that contradicts a draft to the first frame of the next one. `resume_delay`: seconds
    from any other commit to the next frame. `interval`: seconds between two frames that no commit separates.
    `gains` and `added`: by how much a frame raises a draft's values and its number of nodes, by the nodes there before
    (_bucket). `kept_after_decode`: the share of tokens decoded without a draft that the draft under way contained.
    `survival`: the share of drafts that went on after a commit had left no node of them, with nodes that were under
    way. None while unknown.
    """

    delay: float | None = None
    resume_delay: float | None = None
    interval: float | None = None
    gains: list[Values | None] = field(default_factory=lambda: [None] * NUM_BUCKETS)
    added: list[float | None] = field(default_factory=lambda: [None] * NUM_BUCKETS)
    kept_after_decode: float = 0.9
    survival: float = 0.5
    _usual: tuple[Values, list[float]] | None = field(default=None, init=False)

    def copy(self) -> DraftGrowth:
        return replace(self, gains=[*self.gains], added=[*self.added])

    def record_delay(self, seconds: float) -> None:
        self.delay = running_mean(self.delay, seconds, DELAY_WEIGHT)

    def record_resume_delay(self, seconds: float) -> None:
        self.resume_delay = running_mean(self.resume_delay, seconds, DELAY_WEIGHT)

    def record_interval(self, seconds: float) -> None:
        self.interval = running_mean(self.interval, seconds, DELAY_WEIGHT)

    def record_frame(self, nodes: int, added: int, gains: Values) -> None:
        """Add a frame of `added` nodes to a draft of `nodes`, by which its values (draft_values) have grown."""
        bucket = _bucket(nodes)
        before = self.gains[bucket]
        self.gains[bucket] = gains if before is None else before + VALUE_WEIGHT * (gains - before)
        self.added[bucket] = running_mean(self.added[bucket], added, VALUE_WEIGHT)
        self._usual = None

    def record_kept(self, kept: bool) -> None:
        """Add a token that was decoded without a draft, and that the draft under way contained or not."""
        self.kept_after_decode += VALUE_WEIGHT * (kept - self.kept_after_decode)

    def record_survival(self, survived: bool) -> None:
        """Add a draft of which a commit left no node without contradicting it, and whether it went on."""
        self.survival += VALUE_WEIGHT * (survived - self.survival)

    def curve(self, price: float) -> Values:
        """The usual value, at this price of a row, of a draft of 0 to MAX_FRAMES frames.

        Where nothing is known it does not grow.
        """
        at = min(max(price, 0.0), 1.0) * (len(PRICES) - 1)
        below = min(int(at), len(PRICES) - 2)
        values = self._growth()[0]
        return values[:, below] + (at - below) * (values[:, below + 1] - values[:, below])

    def frames(self, nodes: int) -> float:
        """How many frames a draft of so many nodes usually has."""
        usual = self._growth()[1]
        above = bisect_left(usual, nodes)
        if not 0 < above < len(usual):
            return float(min(above, MAX_FRAMES))
        below = usual[above - 1]
        return above - 1 + (nodes - below) / (usual[above] - below)

    def _growth(self) -> tuple[Values, list[float]]:
        """Values [frames, prices] and number of nodes by frames."""
        if self._usual is None:
            gains, nodes = [NO_GAINS], [0.0]
            for _ in range(MAX_FRAMES):
                bucket = _bucket(round(nodes[-1]))
                gain = self.gains[bucket]
                gains.append(NO_GAINS if gain is None else gain)
                nodes.append(nodes[-1] + max(MIN_ADDED, self.added[bucket] or 0.0))
            self._usual = np.maximum(gains, 0.0).cumsum(axis=0), nodes
        return self._usual


def draft_values(probabilities: Sequence[float]) -> Values:
    """The value of a draft of nodes with these path probabilities, at each of PRICES."""
    return np.maximum(np.asarray(probabilities)[:, None] - PRICES, 0.0).sum(axis=0)


def _bucket(nodes: int) -> int:
    """The index of a number of nodes among `gains`: one by one at first, then in groups."""
    return nodes if nodes < GROUP else min(NUM_BUCKETS - 1, GROUP - 1 + nodes // GROUP)
