"""How an agent's drafts keep pace with the commits: how often there is something to check at once.

Right after a commit a session either still has drafted nodes below its text or it has none until new ones arrive. How
often it has, after a plain step and after a checked one, decides whether waiting for drafts is worth the time
(policy.worth_waiting). What is known of all agents speaks for a new one.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.05  # of the newest value in a running mean


@dataclass(slots=True)
class DraftArrivals:
    """Running means. `tokens` and `nodes` are of checked steps, `delay` is seconds from a miss to the next draft."""

    kept_plain: float = 0.5
    kept_checked: float = 0.5
    tokens: float = 1.5
    nodes: float = 2.0
    delay: float | None = None

    def stepped(self, nodes: int, tokens: int, kept: bool) -> None:
        """A step checked so many nodes and committed so many tokens; `kept` tells whether nodes are left below them."""
        if nodes:
            self.kept_checked += WEIGHT * (kept - self.kept_checked)
            self.tokens += WEIGHT * (tokens - self.tokens)
            self.nodes += WEIGHT * (nodes - self.nodes)
        else:
            self.kept_plain += WEIGHT * (kept - self.kept_plain)

    def drafted(self, delay: float) -> None:
        """A draft came so long after the miss that called for it."""
        self.delay = delay if self.delay is None else self.delay + WEIGHT * (delay - self.delay)
