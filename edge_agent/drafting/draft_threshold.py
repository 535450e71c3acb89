"""How improbable a place may be and still be worth a look of the drafters: that depends on how fast they are.

While a look takes its time, a commit may come that calls for another one, which then waits for half a look on average.
Where looks are short beside the time between commits that costs nothing, and every corner of the tree may be drafted
ahead, which is what hides a long round trip; where they are long, the odd guesses cost more than they bring. SCALE is
what was best in `edgedraft bench link`, over round trips from 0 to 100 ms and looks from a tenth to a quarter of a
step.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.drafting.draft_session import DEFAULT_MIN_PATH

SMOOTHING = 0.1  # weight of the newest value in a running mean
SCALE = 0.2
MIN_THRESHOLD, MAX_THRESHOLD = 0.0005, 0.2


@dataclass(slots=True)
class DraftThreshold:
    """Running means, in seconds: of a look of the drafters, and of the time between two commits of a session."""

    forward_seconds: float | None = None
    commit_interval: float | None = None

    def record_forward(self, seconds: float) -> None:
        self.forward_seconds = _smoothed(self.forward_seconds, seconds)

    def record_commit(self, seconds: float) -> None:
        """A session's commit came so long after its last one."""
        self.commit_interval = _smoothed(self.commit_interval, seconds)

    @property
    def min_path(self) -> float:
        """The path probability below which a place is not worth a look."""
        if not self.forward_seconds or not self.commit_interval:
            return DEFAULT_MIN_PATH
        return min(MAX_THRESHOLD, max(MIN_THRESHOLD, SCALE * (self.forward_seconds / self.commit_interval) ** 2))


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)
