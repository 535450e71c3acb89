"""Statistics of when drafts arrive: how often nodes are ready right after a commit, and how long they take otherwise.

should_wait_for_draft (policy.py) decides by them. They are kept per agent and for all agents together.
"""

from __future__ import annotations

from dataclasses import dataclass

NEWEST_WEIGHT = 0.05  # of the newest value in a running mean


@dataclass(slots=True)
class DraftArrivals:
    """Running means. A verify step is one that verifies draft nodes, a decode step one that does not."""

    draft_ready_after_decode: float = 0.5  # share of decode steps after which nodes are ready at once
    draft_ready_after_verify: float = 0.5  # the same of verify steps
    tokens_per_verify: float = 1.5  # committed by a verify step
    nodes_per_verify: float = 2.0
    delay: float | None = None  # seconds from a commit that leaves no draft to the next draft; None if unknown

    def record_step(self, nodes: int, tokens: int, draft_ready: bool) -> None:
        """Add a step that verified `nodes` nodes and committed `tokens` tokens."""
        if nodes:
            self.draft_ready_after_verify += NEWEST_WEIGHT * (draft_ready - self.draft_ready_after_verify)
            self.tokens_per_verify += NEWEST_WEIGHT * (tokens - self.tokens_per_verify)
            self.nodes_per_verify += NEWEST_WEIGHT * (nodes - self.nodes_per_verify)
        else:
            self.draft_ready_after_decode += NEWEST_WEIGHT * (draft_ready - self.draft_ready_after_decode)

    def record_delay(self, delay: float) -> None:
        """Add a draft that arrived `delay` seconds after the commit that left none."""
        self.delay = delay if self.delay is None else self.delay + NEWEST_WEIGHT * (delay - self.delay)
