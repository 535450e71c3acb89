"""The bound: drafts that are always there, at no cost and without delay, and the best number of nodes in each step.

Each session's draft is the best tree that the oracle allows, up to a number of nodes: the most probable ones, wherever
they are. What this reaches stands for the most that any rule about when to start a step can reach at the same load.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from edgedraft.tree import DraftSlice
from edgedraft.wire import MAX_WINDOW, confidence_byte
from loadtest.policy.references.simple_scheduler import SimpleScheduler, SimpleSession, count_for_rate
from loadtest.policy.world import World
from verifier.engine.interface import Engine
from verifier.scheduling.policy import MIN_GAIN

MAX_NODES_OF_ALL = 512  # of all sessions' trees together, but MIN_NODES of each
MIN_NODES = 6


class IdealScheduler(SimpleScheduler):
    """Of the nodes, those are verified that the verifier itself would select: see policy.select_draft_nodes."""

    def __init__(self, engine: Engine, world: World, streams: int) -> None:
        super().__init__(engine)
        self._oracle = world.oracle
        self._chats = {chat.prompt: chat for chat in world.chats}
        self._nodes = min(MAX_WINDOW, max(MIN_NODES, MAX_NODES_OF_ALL // streams))
        self._trees: dict[tuple[int, int], DraftSlice] = {}

    def start(self, decoding: Sequence[int], now: float) -> tuple[Sequence[int], float | None]:
        return decoding, None

    def count_nodes(self, probabilities: Sequence[float], rows: int, tokens: int) -> int:
        price = MIN_GAIN * self._forecast.time_value(len(self._sessions))
        return count_for_rate(probabilities, rows, tokens, self.step_costs.seconds, price or None)

    def draft(self, session: SimpleSession) -> DraftSlice:
        chat, at = self._chats[session.prompt], len(session.tree.committed)
        if (chat.number, at) not in self._trees:
            self._trees[chat.number, at] = self._best_tree(chat.number, at, chat.text)
        return self._trees[chat.number, at]

    def _best_tree(self, number: int, at: int, text: Sequence[int]) -> DraftSlice:
        """The most probable nodes behind text[:at], which never reach beyond the text's last token but one."""
        tokens: list[int] = []
        parents: list[int] = []
        costs: list[int] = []
        depths: list[int] = []
        # Candidates: minus the path's probability, parent, token, cost, number of right tokens, and the wrong ones.
        heap: list[tuple[float, int, int, int, int, tuple[int, ...]]] = []

        def propose(parent: int, probability: float, cost: int, right: int, wrong: tuple[int, ...]) -> None:
            if right + len(wrong) >= len(text) - 1:
                return
            proposal = self._oracle.propose((number, right, wrong))
            for token, share in zip(proposal.tokens, proposal.probabilities, strict=True):
                is_right = not wrong and token == text[right]
                reached, missed = (right + 1, ()) if is_right else (right, (*wrong, token))
                candidate = -probability * share, parent, token, cost + confidence_byte(share), reached, missed
                heapq.heappush(heap, candidate)

        propose(-1, 1.0, 0, at, ())
        while heap and len(tokens) < self._nodes:
            negative, parent, token, cost, right, wrong = heapq.heappop(heap)
            tokens.append(token)
            parents.append(parent)
            costs.append(cost)
            depths.append(depths[parent] + 1 if parent >= 0 else 1)
            propose(len(tokens) - 1, -negative, cost, right, wrong)
        return DraftSlice(tuple(tokens), tuple(parents), tuple(costs), tuple(depths))
