"""What an agent did: tokens drafted, accepted and committed, by session and in all.

The drafting thread counts, anyone may read a snapshot at any time. Figures only: no text, no ids.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counts:
    """`drafted` nodes were sent, `accepted` of them were right by the verifier's word, `committed` is the text made."""

    drafted: int = 0
    accepted: int = 0
    committed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.drafted + other.drafted, self.accepted + other.accepted, self.committed + other.committed)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`sessions` are the open ones by number, `total` is since the agent started, over all attachments."""

    sessions: dict[int, Counts] = field(default_factory=dict)
    total: Counts = Counts()


class Tally:
    """Adds up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[int, Counts] = {}
        self._total = Counts()

    def begin(self, session: int) -> None:
        with self._lock:
            self._sessions.setdefault(session, Counts())

    def add(self, session: int, counts: Counts) -> None:
        with self._lock:
            self._sessions[session] = self._sessions.get(session, Counts()) + counts
            self._total += counts

    def end(self, session: int) -> Counts:
        """Forget the session; returns what it came to."""
        with self._lock:
            return self._sessions.pop(session, Counts())

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(dict(self._sessions), self._total)
