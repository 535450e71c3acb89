"""The agent's state of one session: its text, its copy of the draft tree, and where to draft next.

The uncovered probability of a node is the probability of its path minus that of its children's paths. The nodes with
the highest ones are requested next, each once. Drafting therefore goes down the most likely path, adds siblings where
that path becomes uncertain, and skips what a proposed chain covers already. It stops at the window, at ends of the
text, and where the uncovered probability is below a threshold (draft_threshold.py).

A commit ends at a node with the probability of that node's path, whatever was verified, so this order also prepares the
most likely continuations of a commit that is still to come: the sum of all path probabilities is the expected draft
that it finds (docs/scheduling.md).

This module calls no drafter and uses no link.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from msgspec.structs import replace

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal, merge
from edgedraft.tree import DraftTree, Node
from edgedraft.wire import MAX_DRAFT_NODES, MAX_WINDOW, Commit, Draft, Open, confidence_byte, confidence_probability

DEFAULT_MIN_PATH = 0.02  # path probability; used until the threshold has been measured
# Nodes are sent from a path probability of SENT_PROBABILITY / window on, at most MAX_SENT_PATH, so that
# unlikely siblings do not fill the window.
SENT_PROBABILITY, MAX_SENT_PATH = 0.75, 0.02


class DraftSession:
    """Created from an Open; takes Commits and Proposals, returns draft requests and the Drafts to send.

    `min_path` is the path probability below which a node is neither sent nor drafted further; it may change any time.
    """

    def __init__(self, opened: Open, epoch: int) -> None:
        """`epoch` is the first epoch to use; it must be above all epochs that the session had before."""
        self.number = opened.session
        self.min_path = DEFAULT_MIN_PATH
        self.tree = DraftTree(MAX_WINDOW, opened.committed, epoch)
        self._text = [*opened.prompt, *opened.committed]
        self._sampling = opened.sampling
        self._prediction = opened.prediction
        self._max_tokens = opened.max_tokens
        self._eos = frozenset(opened.eos)
        self._window = opened.window
        # By id of the nodes to draft from, relative to the epoch's root.
        self._uncovered: dict[int, float] = {}
        self._held_back: dict[int, Proposal] = {}  # by node id: proposals below the threshold or beyond the window
        self._add_candidate(self.tree.node(0))

    @property
    def length(self) -> int:
        """Tokens of prompt and committed text."""
        return len(self._text)

    def commit(self, message: Commit) -> list[Draft]:
        """Apply a commit; returns drafts of held-back proposals that are now above the threshold.

        After a mismatch a new epoch starts behind the committed text. Raises ValueError when the commit does not follow
        the text that is committed here.
        """
        self.tree.commit(message.at, message.tokens)
        self._text.extend(message.tokens)
        self._window = min(message.window, MAX_WINDOW)
        if self.tree.surplus:
            self.tree.start_epoch()
            self._uncovered.clear()
            self._add_candidate(self.tree.node(0))
            self._held_back.clear()
            return []
        costs = {node.id: node.cost for node in self.tree.live_nodes()}
        self._uncovered = {n: mass for n, mass in self._uncovered.items() if n in costs}
        held, self._held_back = self._held_back, {}
        best = {n: costs[n] + confidence_byte(max(held[n].probabilities)) for n in held.keys() & costs.keys()}
        drafts = [self._add_below(node, held[node]) for node in sorted(best, key=best.__getitem__)]
        return _join([draft for draft in drafts if draft is not None])

    def candidates(self, limit: int) -> list[tuple[float, int]]:
        """The best nodes to draft from, at most `limit`: (uncovered probability, node id), the most probable first.

        It is empty while the window is full.
        """
        if len(self.tree) >= self._window:
            return []
        root = confidence_probability(self.tree.node(self.tree.cursor).cost)
        best = heapq.nlargest(limit, ((mass / root, node_id) for node_id, mass in self._uncovered.items()))
        return [found for found in best if found[0] >= self.min_path]

    def request_at(self, node_id: int) -> DraftRequest:
        """The request to draft from a live node."""
        context = self._text + self.tree.path(node_id)
        index = self._output_index(self.tree.node(node_id))
        return DraftRequest(self.number, context, len(self._text), index, self._sampling, self._prediction)

    def next_request(self) -> tuple[int, DraftRequest] | None:
        """The id of the best node to draft from and the request for it; None when nothing is worth drafting."""
        best = self.candidates(1)
        return (best[0][1], self.request_at(best[0][1])) if best else None

    def add_proposals(self, proposals: Sequence[tuple[int, Proposal]]) -> list[Draft]:
        """Add a drafter's proposals below the nodes that were requested; returns the drafts to send."""
        drafts: list[Draft] = []
        for node_id, proposal in proposals:
            if proposal.complete:
                self._uncovered.pop(node_id, None)
            if draft := self._add_below(node_id, proposal):
                drafts.append(draft)
        return _join(drafts)

    def _add_below(self, node_id: int, proposal: Proposal) -> Draft | None:
        """Add the proposal's most likely tokens below a live node, up to the window; the rest is held back.

        With an empty tree the most likely token is added however unlikely it is. Nodes in the tree are not sent again.
        """
        tree, free = self.tree, min(MAX_DRAFT_NODES, max(0, self._window - len(self.tree)))
        ids, new = self._new_nodes(node_id, proposal)
        min_path = max(self.min_path, min(MAX_SENT_PATH, SENT_PROBABILITY / max(1, self._window)))
        max_cost = tree.node(tree.cursor).cost + confidence_byte(min_path)
        if new and not len(tree):
            max_cost = max(max_cost, min(new)[0])
        # A child costs no less than its parent and has a higher index, so every chosen node's parent is chosen too.
        chosen = sorted(i for cost, i in sorted(new)[:free] if cost <= max_cost)
        first = tree.next_id
        ids.update(zip(chosen, range(first, first + len(chosen)), strict=True))
        self._hold_back(proposal, ids, [i for _, i in new if i not in ids])
        if not chosen:
            self._drop_expanded(proposal, ids)
            return None
        tokens = [proposal.tokens[i] for i in chosen]
        parents = [ids[proposal.parents[i]] for i in chosen]
        confidence = bytes(confidence_byte(proposal.probabilities[i]) for i in chosen)
        tree.add(tree.epoch, tree.at, first, tokens, parents, confidence)
        for new_id, parent in enumerate(parents, first):
            node = tree.node(new_id)
            if parent in self._uncovered:
                self._uncovered[parent] -= confidence_probability(node.cost)
            self._add_candidate(node)
        self._drop_expanded(proposal, ids)
        return Draft(self.number, tree.epoch, tree.at, first, tokens, parents, confidence)

    def _new_nodes(self, node_id: int, proposal: Proposal) -> tuple[dict[int, int], list[tuple[int, int]]]:
        """Split a proposal: ids of the nodes in the tree already, by proposal index; (path cost, index) of new ones.

        Tokens beyond an end of the text or max_tokens are in neither.
        """
        node = self.tree.node(node_id)
        ids = {-1: node_id}
        cost = {-1: node.cost}
        left = {-1: 0 if self._is_last(node) else self._max_tokens - self._output_index(node)}
        new: list[tuple[int, int]] = []
        for i, (token, parent) in enumerate(zip(proposal.tokens, proposal.parents, strict=True)):
            known = self.tree.node(ids[parent]).children.get(token) if parent in ids else None
            left[i] = 0 if token in self._eos else left[parent] - 1
            if known is not None:
                ids[i], cost[i] = known, self.tree.node(known).cost
            else:
                cost[i] = cost[parent] + confidence_byte(proposal.probabilities[i])
                if left[parent] > 0:
                    new.append((cost[i], i))
        return ids, new

    def _add_candidate(self, node: Node) -> None:
        if not self._is_last(node):
            self._uncovered[node.id] = confidence_probability(node.cost)

    def _drop_expanded(self, proposal: Proposal, ids: dict[int, int]) -> None:
        """Nodes whose children are in the proposal are not requested."""
        for i in proposal.expanded:
            if i in ids:
                self._uncovered.pop(ids[i], None)

    def _hold_back(self, proposal: Proposal, ids: dict[int, int], out: list[int]) -> None:
        """Keep the tokens at the indices `out`, each below its deepest ancestor in the tree."""
        ancestor: dict[int, int] = {}
        for i in out:
            parent = proposal.parents[i]
            ancestor[i] = ids[parent] if parent in ids else ancestor[parent]
        for node_id in set(ancestor.values()):
            own = [i for i in out if ancestor[i] == node_id]
            new_index = {i: n for n, i in enumerate(own)}
            held = Proposal(
                tuple(proposal.tokens[i] for i in own),
                tuple(new_index.get(proposal.parents[i], -1) for i in own),
                tuple(proposal.probabilities[i] for i in own),
                expanded=tuple(new_index[i] for i in proposal.expanded if i in new_index),
            )
            self._held_back[node_id] = merge([self._held_back.get(node_id, NO_PROPOSAL), held])

    def _output_index(self, node: Node) -> int:
        """The output index of the token that follows a live node."""
        return len(self.tree.committed) + node.depth - self.tree.node(self.tree.cursor).depth

    def _is_last(self, node: Node) -> bool:
        return node.token in self._eos or self._output_index(node) >= self._max_tokens


def _join(drafts: Sequence[Draft]) -> list[Draft]:
    """Consecutive drafts of one epoch as few messages: the ids of each follow those of the one before."""
    joined: list[Draft] = []
    for draft in drafts:
        if joined and len(joined[-1].tokens) + len(draft.tokens) <= MAX_DRAFT_NODES:
            last = joined[-1]
            joined[-1] = replace(
                last,
                tokens=last.tokens + draft.tokens,
                parents=last.parents + draft.parents,
                confidence=last.confidence + draft.confidence,
            )
        else:
            joined.append(draft)
    return joined
