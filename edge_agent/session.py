"""One session as the agent sees it: the text so far, its own copy of the draft tree, and where to draft next.

Where next: each node's path has a probability, its children have theirs, and what the children do not cover is open.
The node with the most open probability is expanded next, once; so drafting goes down the most probable path, fills in
siblings where that path grows doubtful, and hurries past what a chain of guesses covers already. It stops at the
window, at ends of text, and where too little is open to be worth a look.

This file talks to no drafter and no link.
"""

from __future__ import annotations

from edge_agent.drafter import Guesses, Point
from edgedraft.tree import DraftTree, Node
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open, confidence_byte, confidence_probability

LEAST_PATH = 0.02  # path probability below which a node is neither sent nor expanded


class DraftSession:
    """Begins with an Open; takes Commits and guesses; yields points to expand and Drafts to send."""

    def __init__(self, opened: Open, epoch: int) -> None:
        """`epoch` is the first one to use, above all that the session had before."""
        self.number = opened.session
        self.tree = DraftTree(MAX_WINDOW, opened.committed, epoch)
        self._text = [*opened.prompt, *opened.committed]
        self._sampling = opened.sampling
        self._max_tokens = opened.max_tokens
        self._eos = frozenset(opened.eos)
        self._window = opened.window
        self._expanded: set[int] = set()
        self._held: dict[int, Guesses] = {}  # answers below these nodes that were not sent whole

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
            self.tree.plant()
            self._expanded.clear()
            self._held.clear()
            return []
        live = {node.id: node.cost for node in self.tree.live()}
        self._expanded &= live.keys()
        self._held = {node: guesses for node, guesses in self._held.items() if node in live}
        drafts = [self.grow(node, self._held[node]) for node in sorted(self._held, key=live.__getitem__)]
        return [draft for draft in drafts if draft is not None]

    def point(self) -> tuple[int, Point] | None:
        """The node to expand next and what its drafter must know; None when there is nothing worth drafting."""
        tree = self.tree
        if len(tree) >= self._window:
            return None
        eligible = (node for node in tree.live() if node.id not in self._expanded and not self._is_last(node))
        best = max(eligible, key=self._open, default=None)
        if best is None or self._open(best) < LEAST_PATH:
            return None
        context = self._text + tree.path(best.id)
        return best.id, Point(self.number, context, len(self._text), self._index(best), self._sampling)

    def grow(self, node_id: int, guesses: Guesses) -> Draft | None:
        """Hang a drafter's answer below the node that `point` named; returns what is news to the verifier.

        The most confident guesses come in while the window has room, and the best one behind the committed text in any
        case. What is left out is held back for later, and a node that was sent already is not sent again.
        """
        if guesses.complete:
            self._expanded.add(node_id)
        self._held.pop(node_id, None)
        tree = self.tree
        above = tree.node(node_id)
        ids: dict[int, int | None] = {-1: node_id}  # of each guess, None while it has none
        cost: dict[int, int] = {-1: above.cost}
        left = {-1: 0 if self._is_last(above) else self._max_tokens - self._index(above)}
        confidence = [confidence_byte(p) for p in guesses.probabilities]
        news: list[tuple[int, int]] = []
        for i, (token, parent) in enumerate(zip(guesses.tokens, guesses.parents, strict=True)):
            hangs_from = ids[parent]
            ids[i] = known = None if hangs_from is None else tree.node(hangs_from).children.get(token)
            cost[i] = cost[parent] + confidence[i] if known is None else tree.node(known).cost
            left[i] = 0 if token in self._eos else left[parent] - 1
            if known is None and left[parent] > 0:
                news.append((cost[i], i))
        news.sort()
        most = tree.node(tree.cursor).cost + confidence_byte(LEAST_PATH)
        if news and not len(tree):
            most = max(most, news[0][0])
        # A child costs no less than its parent and stands behind it, so what is chosen hangs together.
        room = max(0, self._window - len(tree))
        chosen = sorted(i for path, i in news[:room] if path <= most)
        if len(chosen) < len(news):
            self._held[node_id] = guesses
        if not chosen:
            return None
        first = tree.next_id
        ids.update(zip(chosen, range(first, first + len(chosen)), strict=True))
        tokens = [guesses.tokens[i] for i in chosen]
        parents = [ids[guesses.parents[i]] or 0 for i in chosen]
        costs = bytes(confidence[i] for i in chosen)
        tree.add(tree.epoch, tree.at, first, tokens, parents, costs)
        return Draft(self.number, tree.epoch, tree.at, first, tokens, parents, costs)

    def _index(self, node: Node) -> int:
        """The output index of the token that follows a live node."""
        return len(self.tree.committed) + node.depth - self.tree.node(self.tree.cursor).depth

    def _is_last(self, node: Node) -> bool:
        return node.token in self._eos or self._index(node) >= self._max_tokens

    def _open(self, node: Node) -> float:
        """The probability that the text goes through a live node and on to none of its children."""
        root = self.tree.node(self.tree.cursor).cost
        children = (self.tree.node(child) for child in node.children.values())
        covered = sum(confidence_probability(child.cost - root) for child in children)
        return confidence_probability(node.cost - root) - covered
