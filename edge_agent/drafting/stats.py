"""Draft statistics: tokens drafted, accepted and committed, per session and in total.

Written by the drafting thread; any thread may take a snapshot. Counts only, no text and no token ids.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DraftStats:
    """Tokens that were drafted and sent, those of them that the verifier accepted, and all committed tokens."""

    drafted: int = 0
    accepted: int = 0
    committed: int = 0

    def __add__(self, other: DraftStats) -> DraftStats:
        return DraftStats(
            self.drafted + other.drafted, self.accepted + other.accepted, self.committed + other.committed
        )


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """`sessions` has the open sessions by number; `total` is over all attachments since the agent started."""

    sessions: dict[int, DraftStats] = field(default_factory=dict)
    total: DraftStats = DraftStats()


class StatsCollector:
    """Sums up DraftStats, thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[int, DraftStats] = {}
        self._total = DraftStats()

    def begin(self, session: int) -> None:
        with self._lock:
            self._sessions.setdefault(session, DraftStats())

    def add(self, session: int, counts: DraftStats) -> None:
        with self._lock:
            self._sessions[session] = self._sessions.get(session, DraftStats()) + counts
            self._total += counts

    def end(self, session: int) -> DraftStats:
        """Remove the session; returns its sums."""
        with self._lock:
            return self._sessions.pop(session, DraftStats())

    def snapshot(self) -> StatsSnapshot:
        with self._lock:
            return StatsSnapshot(dict(self._sessions), self._total)
