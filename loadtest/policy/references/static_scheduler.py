"""Static step-start rules: a fixed wait after a commit, and sessions in one or more groups that take turns.

The best of them for a load is a reference for the verifier's own rule, which has to find out by itself when to start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgedraft.tree import DraftSlice
from loadtest.policy.references.simple_scheduler import SimpleScheduler, SimpleSession, count_for_rate
from verifier.engine.interface import Engine


@dataclass(frozen=True)
class StaticPolicy:
    """A group's step starts `wait` seconds after its last commit, and when the group before it has ended its own.

    With `enough` the wait ends early, once every session of the group has that many nodes. Of a session at most
    `nodes` nodes are verified, as many as give the step the most expected tokens per second.
    """

    wait: float
    groups: int
    nodes: int
    enough: int = 0

    def __str__(self) -> str:
        early = f" or {self.enough} nodes" if self.enough else ""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{1e3 * self.wait:g} ms{early}{groups}, at most {self.nodes} nodes"


class StaticScheduler(SimpleScheduler):
    """A prompt that is left to compute ends any wait, as it does in the verifier."""

    def __init__(self, engine: Engine, policy: StaticPolicy, window: int) -> None:
        super().__init__(engine, max(window, policy.nodes))
        self._policy = policy
        self._next = 0  # the group whose turn it is

    def group_of_new(self) -> int:
        sizes = Counter(session.group for session in self._sessions.values())
        return min(range(self._policy.groups), key=lambda group: sizes[group])

    def start(self, decoding: Sequence[int], now: float) -> tuple[Sequence[int], float | None]:
        groups = self._policy.groups
        for turn in range(groups):
            group = (self._next + turn) % groups
            members = [key for key in decoding if self._sessions[key].group == group]
            if not members:
                continue
            ready_at = max(self._sessions[key].committed_at for key in members) + self._policy.wait
            if now < ready_at and len(decoding) == len(self._sessions) and not self._have_enough(members):
                return (), ready_at
            self._next = (group + 1) % groups
            return members, None
        return (), None

    def _have_enough(self, members: Sequence[int]) -> bool:
        enough = self._policy.enough
        trees = (self._sessions[key].tree for key in members)
        return enough > 0 and all(len(tree) >= enough and not tree.surplus for tree in trees)

    def draft(self, session: SimpleSession) -> DraftSlice:
        return session.tree.select(self._policy.nodes)

    def count_nodes(self, probabilities: Sequence[float], rows: int, tokens: int) -> int:
        return count_for_rate(probabilities, rows, tokens, self.step_costs.seconds, None)
