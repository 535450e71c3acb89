"""How improbable a place may be and still be worth a look of the drafters: that depends on how fast they are.

While a look takes its time, a commit may come that calls for another one, which then waits for half a look on average.
Where looks are short beside the time between commits that costs nothing, and every corner of the tree may be drafted
ahead, which is what hides a long round trip; where they are long, the odd guesses cost more than they bring. SQUARE is
what was best in `edgedraft bench link`, over round trips from 0 to 100 ms and looks from a tenth to a quarter of a
step.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.drafting.session import LEAST_PATH

SMOOTHING = 0.1  # weight of the newest value in a running mean
SQUARE = 0.2
LEAST, MOST = 0.0005, 0.2


@dataclass(slots=True)
class DraftThreshold:
    """Running means, in seconds: of a look of the drafters, and of the time between two commits of a session."""

    look: float | None = None
    interval: float | None = None

    def looked(self, seconds: float) -> None:
        self.look = _smoothed(self.look, seconds)

    def committed(self, seconds: float) -> None:
        """A session's commit came so long after its last one."""
        self.interval = _smoothed(self.interval, seconds)

    @property
    def least_path(self) -> float:
        """The path probability below which a place is not worth a look."""
        if not self.look or not self.interval:
            return LEAST_PATH
        return min(MOST, max(LEAST, SQUARE * (self.look / self.interval) ** 2))


def _smoothed(mean: float | None, value: float) -> float:
    return value if mean is None else mean + SMOOTHING * (value - mean)
