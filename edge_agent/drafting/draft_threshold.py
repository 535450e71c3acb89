"""The path probability below which a node is not worth a draft forward, from the speed of drafter and verifier.

A commit that arrives during a draft forward waits half a forward on average before its own one can start. When forwards
are short against the time between commits this costs nothing, and even unlikely branches can be drafted ahead, which
hides a long round trip; when forwards are long, unlikely branches cost more than they gain. SCALE is the best value
found by `edgedraft bench link`, for round trips from 0 to 100 ms and draft forwards of 10 to 25 % of a target step.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.drafting.draft_session import DEFAULT_MIN_PATH

SMOOTHING = 0.1  # weight of the newest value in a moving average
SCALE = 0.2
MIN_THRESHOLD, MAX_THRESHOLD = 0.0005, 0.2


@dataclass(slots=True)
class DraftThreshold:
    """Moving averages in seconds: of one draft forward, and of the time between two commits of a session."""

    forward_seconds: float | None = None
    commit_interval: float | None = None

    def record_forward(self, seconds: float) -> None:
        self.forward_seconds = _smoothed(self.forward_seconds, seconds)

    def record_commit(self, seconds: float) -> None:
        """Record the time between two commits of one session."""
        self.commit_interval = _smoothed(self.commit_interval, seconds)

    @property
    def min_path(self) -> float:
        """The path probability below which a node is not worth a draft forward."""
        if not self.forward_seconds or not self.commit_interval:
            return DEFAULT_MIN_PATH
        return min(MAX_THRESHOLD, max(MIN_THRESHOLD, SCALE * (self.forward_seconds / self.commit_interval) ** 2))


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)
