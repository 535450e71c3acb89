"""Speculation statistics of a generation: tokens drafted and accepted, and the verifier's compute time.

Reported in two shapes: the root field `edgedraft` of a response, and vLLM's `metrics.speculative_decoding`, which
outside tools read. The former separates what an agent drafted from what the verifier drafted itself; the latter counts
both. There, a step is a verify that had a draft, and a draft's length is the depth of its tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from edgedraft.wire import Commit
from gateway.accounts import Owner

Mode = Literal["edge", "datacenter", "mixed"]


class SpeculationStats:
    """One session's statistics, updated per commit."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self.attempts: dict[int, float] = {}  # the same by attempt (wire.Open)
        self.drafted = 0
        self.accepted = 0
        self.own_accepted = 0  # of tokens that the verifier itself drafted
        self.cached = 0  # tokens that a verifier found in its cache at the start; the fewest, where it was reopened
        self.tokens = 0  # committed
        self.first_steps = 0  # one for each verifier that committed; they include the prefill
        self.first_seconds = 0.0
        self.plain_steps = 0  # later steps without a draft
        self.plain_seconds = 0.0
        self.agent = ""  # the agent that drafted last (AgentLink.identity)
        self.agent_owner: Owner = ("", "")
        self.agent_device = ""  # edgedraft/devices.py
        self.agent_seconds = 0.0  # agents' time that was attributed to this session
        self._opened = True
        self._nodes = 0
        self._outcomes: Counter[tuple[int, int]] = Counter()  # (depth, accepted) of each verify that had a draft
        self._commits: Counter[bool] = Counter()  # by whether an agent was paired

    def record_open(self) -> None:
        """The next commit is the first of another verifier, which had the text to compute."""
        self._opened = True

    def add_seconds(self, seconds: float, attempt: int) -> None:
        """Count compute time of a commit, whether it can be used or not."""
        self.seconds += seconds
        self.attempts[attempt] = self.attempts.get(attempt, 0.0) + seconds

    def add(self, commit: Commit, paired: bool, attempt: int = 1) -> None:
        """Count one commit of this attempt, received while an agent was paired or none was."""
        self.steps += 1
        self.add_seconds(commit.seconds, attempt)
        self.tokens += len(commit.tokens)
        if self._opened:
            self._opened = False
            self.cached = min(self.cached, commit.cached) if self.first_steps else commit.cached
            self.first_steps += 1
            self.first_seconds += commit.seconds
        elif commit.nodes == 0:
            self.plain_steps += 1
            self.plain_seconds += commit.seconds
        self._commits[paired] += 1
        if commit.nodes > 0:
            depth = min(commit.depth, commit.nodes)
            accepted = min(commit.accepted, depth)
            self._nodes += commit.nodes
            self._outcomes[depth, accepted] += 1
            if commit.verifier_drafted:
                self.own_accepted += accepted
            else:
                self.drafted += commit.nodes
                self.accepted += accepted

    @property
    def mode(self) -> Mode:
        if not self._commits[True]:
            return "datacenter"
        return "mixed" if self._commits[False] else "edge"

    def speculative_decoding(self) -> dict[str, Any]:
        """vLLM's shape. Zeros throughout when nothing was drafted."""
        by_depth = {depth: [0] * (depth + 1) for depth, _ in sorted(self._outcomes)}
        longest = max(by_depth, default=0)
        histogram = [0] * (longest + 1)
        for (depth, accepted), count in self._outcomes.items():
            by_depth[depth][accepted] += count
            histogram[accepted] += count
        steps = sum(histogram)
        accepted_in_all = self.accepted + self.own_accepted
        return {
            "mean_acceptance_length": 1 + accepted_in_all / steps if steps else 1.0,
            "draft_acceptance_rate": accepted_in_all / self._nodes if self._nodes else 0.0,
            "acceptance_histogram": histogram,
            "acceptance_histogram_by_draft_length": {str(depth): row for depth, row in by_depth.items()},
            "num_spec_steps": steps,
            "num_accepted_draft_tokens": accepted_in_all,
            "num_draft_tokens": self._nodes,
            "num_spec_tokens": longest,
        }


def edgedraft_field(choices: Sequence[SpeculationStats]) -> dict[str, Any]:
    """The root field `edgedraft` of a response: one choice, or several together. verifier_seconds is compute time.

    verifier_accepted counts the accepted tokens that the verifier drafted by prompt lookup or from a prediction.
    """
    modes: set[Mode] = {stats.mode for stats in choices}
    return {
        "mode": modes.pop() if len(modes) == 1 else "mixed",
        "verifier_steps": sum(stats.steps for stats in choices),
        "verifier_seconds": round(sum(stats.seconds for stats in choices), 6),
        "drafted": sum(stats.drafted for stats in choices),
        "accepted": sum(stats.accepted for stats in choices),
        "verifier_accepted": sum(stats.own_accepted for stats in choices),
    }
