"""One session as the agent sees it: the text so far, its own copy of the draft tree, and where to draft next.

Where next: each node's path has a probability, its children have theirs, and what the children do not cover is open.
The node with the most open probability is expanded next, once; so drafting goes down the most probable path, fills in
siblings where that path grows doubtful, and hurries past what a chain of guesses covers already. It stops at the
window, at ends of text, and where too little is open to be worth a look (pace.py says how little that is).

This file talks to no drafter and no link.
"""

from __future__ import annotations

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal, merge
from edgedraft.tree import DraftTree, Node
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open, confidence_byte, confidence_probability

DEFAULT_MIN_PATH = 0.02  # path probability below which a node is neither sent nor expanded, while nothing was measured


class DraftSession:
    """Begins with an Open; takes Commits and guesses; yields points to expand and Drafts to send.

    `min_path` is the path probability below which a node is neither sent nor expanded; it may change at any time.
    """

    def __init__(self, opened: Open, epoch: int) -> None:
        """`epoch` is the first one to use, above all that the session had before."""
        self.number = opened.session
        self.min_path = DEFAULT_MIN_PATH
        self.tree = DraftTree(MAX_WINDOW, opened.committed, epoch)
        self._text = [*opened.prompt, *opened.committed]
        self._sampling = opened.sampling
        self._prediction = opened.prediction
        self._max_tokens = opened.max_tokens
        self._eos = frozenset(opened.eos)
        self._window = opened.window
        self._expanded: set[int] = set()
        self._held_back: dict[int, Proposal] = {}  # below these nodes, what was not worth sending or had no room

    @property
    def length(self) -> int:
        """Tokens of prompt and committed text."""
        return len(self._text)

    def commit(self, message: Commit) -> list[Draft]:
        """Take committed tokens in; returns guesses that were held back and have become worth sending.

        After a true mismatch drafting begins anew behind the text. Raises ValueError when the tokens do not follow on
        what is committed here.
        """
        self.tree.commit(message.at, message.tokens)
        self._text.extend(message.tokens)
        self._window = min(message.window, MAX_WINDOW)
        if self.tree.surplus:
            self.tree.start_epoch()
            self._expanded.clear()
            self._held_back.clear()
            return []
        costs = {node.id: node.cost for node in self.tree.live_nodes()}
        self._expanded &= costs.keys()
        held, self._held_back = self._held_back, {}
        best = {n: costs[n] + confidence_byte(max(held[n].probabilities)) for n in held.keys() & costs.keys()}
        drafts = [self._add_below(node, held[node]) for node in sorted(best, key=best.__getitem__)]
        return [draft for draft in drafts if draft is not None]

    def next_request(self) -> tuple[int, DraftRequest] | None:
        """The node to expand next and what its drafter must know; None when there is nothing worth drafting."""
        tree = self.tree
        if len(tree) >= self._window:
            return None
        eligible = (node for node in tree.live_nodes() if node.id not in self._expanded and not self._is_last(node))
        best = max(eligible, key=self._uncovered, default=None)
        if best is None or self._uncovered(best) < self.min_path:
            return None
        context = self._text + tree.path(best.id)
        index = self._output_index(best)
        return best.id, DraftRequest(self.number, context, len(self._text), index, self._sampling, self._prediction)

    def add_proposal(self, node_id: int, guesses: Proposal) -> Draft | None:
        """Hang a drafter's answer below the node that `next_request` named; returns what is new to the verifier."""
        if guesses.complete:
            self._expanded.add(node_id)
        return self._add_below(node_id, guesses)

    def _add_below(self, node_id: int, guesses: Proposal) -> Draft | None:
        """Add guesses below a live node: the most probable ones, as many as the window has room for.

        Behind the committed text the best one is added however improbable it is. A node that is there already is not
        sent again. What is left out is held back.
        """
        tree, room = self.tree, max(0, self._window - len(self.tree))
        ids, new = self._new_nodes(node_id, guesses)
        most = tree.node(tree.cursor).cost + confidence_byte(self.min_path)
        if new and not len(tree):
            most = max(most, min(new)[0])
        # A child costs no less than its parent and stands behind it, so what is chosen hangs together.
        chosen = sorted(i for cost, i in sorted(new)[:room] if cost <= most)
        first = tree.next_id
        ids.update(zip(chosen, range(first, first + len(chosen)), strict=True))
        self._hold_back(guesses, ids, [i for _, i in new if i not in ids])
        if not chosen:
            return None
        tokens = [guesses.tokens[i] for i in chosen]
        parents = [ids[guesses.parents[i]] for i in chosen]
        confidence = bytes(confidence_byte(guesses.probabilities[i]) for i in chosen)
        tree.add(tree.epoch, tree.at, first, tokens, parents, confidence)
        return Draft(self.number, tree.epoch, tree.at, first, tokens, parents, confidence)

    def _new_nodes(self, node_id: int, guesses: Proposal) -> tuple[dict[int, int], list[tuple[int, int]]]:
        """The nodes that are there already, by place among the guesses; and (path cost, place) of those that are not.

        What would lie behind the end of the text or max_tokens is neither.
        """
        node = self.tree.node(node_id)
        ids = {-1: node_id}
        cost = {-1: node.cost}
        left = {-1: 0 if self._is_last(node) else self._max_tokens - self._output_index(node)}
        new: list[tuple[int, int]] = []
        for i, (token, parent) in enumerate(zip(guesses.tokens, guesses.parents, strict=True)):
            known = self.tree.node(ids[parent]).children.get(token) if parent in ids else None
            left[i] = 0 if token in self._eos else left[parent] - 1
            if known is not None:
                ids[i], cost[i] = known, self.tree.node(known).cost
            else:
                cost[i] = cost[parent] + confidence_byte(guesses.probabilities[i])
                if left[parent] > 0:
                    new.append((cost[i], i))
        return ids, new

    def _hold_back(self, guesses: Proposal, ids: dict[int, int], out: list[int]) -> None:
        """Keep the guesses `out`, each below the last node above it that has an id."""
        home: dict[int, int] = {}
        for i in out:
            parent = guesses.parents[i]
            home[i] = ids[parent] if parent in ids else home[parent]
        for node_id in set(home.values()):
            own = [i for i in out if home[i] == node_id]
            place = {i: n for n, i in enumerate(own)}
            left_out = Proposal(
                tuple(guesses.tokens[i] for i in own),
                tuple(place.get(guesses.parents[i], -1) for i in own),
                tuple(guesses.probabilities[i] for i in own),
            )
            self._held_back[node_id] = merge([self._held_back.get(node_id, NO_PROPOSAL), left_out])

    def _output_index(self, node: Node) -> int:
        """The output index of the token that follows a live node."""
        return len(self.tree.committed) + node.depth - self.tree.node(self.tree.cursor).depth

    def _is_last(self, node: Node) -> bool:
        return node.token in self._eos or self._output_index(node) >= self._max_tokens

    def _uncovered(self, node: Node) -> float:
        """The probability that the text goes through a live node and on to none of its children."""
        root = self.tree.node(self.tree.cursor).cost
        children = (self.tree.node(child) for child in node.children.values())
        covered = sum(confidence_probability(child.cost - root) for child in children)
        return confidence_probability(node.cost - root) - covered
