"""What an attached agent has done so far: drafted, accepted, committed, and how soon it answers.

Its answer time is what its owner feels of the link: from a commit that threw the draft away to the first node drafted
behind it, so a round trip and one step of the draft model.
"""

from __future__ import annotations

import time

from edgedraft.wire import Commit, Draft
from gateway.observability.traces import SlotSpan

_WEIGHT = 0.2  # of the newest answer in the running mean


class AgentStats:
    """Sums over all sessions of one attachment. `since` is seconds since the epoch, `answer` seconds or None."""

    def __init__(self) -> None:
        self.since = time.time()
        self.sessions = 0
        self.drafted = 0
        self.checked = 0  # drafted nodes that a verifier looked at
        self.accepted = 0
        self.committed = 0
        self.answer: float | None = None

    def answered(self, seconds: float) -> None:
        self.answer = seconds if self.answer is None else self.answer + _WEIGHT * (seconds - self.answer)


class SlotStats:
    """One session's part in the record, and its span if there is one."""

    def __init__(self, record: AgentStats, span: SlotSpan | None) -> None:
        self._record = record
        self._span = span
        self._at = -1  # output tokens committed, as far as this agent was told
        self._told = 0.0
        record.sessions += 1

    def drafted(self, draft: Draft) -> None:
        """Take note of nodes that were taken in."""
        self._record.drafted += len(draft.tokens)
        if draft.first == 1 and draft.at == self._at:
            self._record.answered(time.monotonic() - self._told)
        if self._span:
            self._span.drafted(draft)

    def committed(self, commit: Commit) -> None:
        self._record.checked += commit.nodes
        self._record.accepted += commit.accepted
        self._record.committed += len(commit.tokens)
        self._at = commit.at + len(commit.tokens)
        self._told = time.monotonic()
        if self._span:
            self._span.committed(commit)

    def end(self, lost: bool) -> None:
        if self._span:
            self._span.end(lost)
