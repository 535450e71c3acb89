"""Counters of one attached agent: tokens drafted, verified, accepted and committed, and its response time.

The response time is measured from a commit that discards the draft to the first node drafted after it: one round trip
and one step of the draft model.
"""

from __future__ import annotations

import time

from edgedraft.wire import Commit, Draft
from gateway.observability.traces import SlotSpan

_WEIGHT = 0.2  # of the newest response in the moving mean


class AgentStats:
    """Sums over all sessions of one attachment."""

    def __init__(self) -> None:
        self.since = time.time()  # seconds since 1970
        self.sessions = 0
        self.drafted = 0
        self.checked = 0  # drafted nodes that a verifier has verified
        self.accepted = 0
        self.committed = 0
        self.answer: float | None = None  # mean response time in seconds

    def record_response(self, seconds: float) -> None:
        self.answer = seconds if self.answer is None else self.answer + _WEIGHT * (seconds - self.answer)


class SlotStats:
    """One session's share of the counters, and its trace span if there is one."""

    def __init__(self, agent: AgentStats, span: SlotSpan | None) -> None:
        self._agent = agent
        self._span = span
        self._committed = -1  # output tokens committed, as last sent to the agent
        self._committed_at = 0.0
        agent.sessions += 1

    def record_draft(self, draft: Draft) -> None:
        """Count a draft that was valid."""
        self._agent.drafted += len(draft.tokens)
        if draft.first == 1 and draft.at == self._committed:
            self._agent.record_response(time.monotonic() - self._committed_at)
        if self._span:
            self._span.record_draft(draft)

    def record_commit(self, commit: Commit) -> None:
        """Count a commit that is sent to the agent."""
        self._agent.checked += commit.nodes
        self._agent.accepted += commit.accepted
        self._agent.committed += len(commit.tokens)
        self._committed = commit.at + len(commit.tokens)
        self._committed_at = time.monotonic()
        if self._span:
            self._span.record_commit(commit)

    def end(self, lost: bool) -> None:
        if self._span:
            self._span.end(lost)
