"""The draft tree: draft tokens below the committed text, replicated at agent, gateway and verifier.

The agent only adds nodes and the verifier only commits tokens. Each end applies both in the order in which they arrive,
any order is valid, and nothing is acknowledged. The rules that make this safe:

- A node is identified by (epoch, id). Ids ascend within an epoch, and a parent's id is below its child's.
- An epoch starts after `at` output tokens. Its node 0 is the root and stands for that position.
- The cursor is the deepest node on the committed path. Committed tokens beyond it are the surplus: their nodes are
  still on the way or were never drafted. A late node below the cursor that equals the next surplus token moves the
  cursor on. Any other contradicts the text and is dropped, as are its descendants. A draft whose nodes at some position
  were all dropped is of no more use: its agent starts a new epoch when it receives the commit.
- Only the cursor and its descendants are kept, so a tree never has more than `max_nodes` live nodes, whatever the peer
  sends.

Confidences are costs, -16 * log2 of a probability (wire.Draft), so they add along a path. This module knows nothing of
models, links or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Epochs may be skipped: those in which an agent sent nothing, and those before a verifier took over. Each epoch ends
# with a committed token, so no session has this many. The bound keeps an agent from using up its successors' numbers.
MAX_EPOCH_STEP = 1 << 20


class DraftViolation(Exception):
    """A draft that no correct agent sends. The message states the rule that it breaks."""


@dataclass(slots=True)
class Node:
    """One draft token. `cost` is that of the path from the epoch's root; children maps token to node id."""

    id: int
    token: int
    parent: int
    cost: int
    depth: int
    children: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DraftSlice:
    """A connected part of a draft tree, topologically ordered, to be verified in one forward.

    parents[i] is an index into this slice, -1 for the last committed token. costs are those of the path from there;
    depths start at 1.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    costs: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def chain(cls, tokens: Sequence[int], costs: Sequence[int] | None = None) -> DraftSlice:
        """A slice without branches. Without `costs` every token has probability 1."""
        count = len(tokens)
        costs = (0,) * count if costs is None else tuple(costs)
        return cls(tuple(tokens), tuple(range(-1, count - 1)), costs, tuple(range(1, count + 1)))

    def subset(self, indices: Sequence[int]) -> DraftSlice:
        """The nodes at `indices`, ascending. Raises KeyError for a node whose parent is not among them."""
        new_index = {-1: -1} | {old: new for new, old in enumerate(indices)}
        return DraftSlice(
            tokens=tuple(self.tokens[i] for i in indices),
            parents=tuple(new_index[self.parents[i]] for i in indices),
            costs=tuple(self.costs[i] for i in indices),
            depths=tuple(self.depths[i] for i in indices),
        )

    def most_likely_path(self) -> DraftSlice:
        """The path from the root with the highest expected number of accepted tokens, by the costs."""
        expected = [2.0 ** (-cost / 16) for cost in self.costs]
        best_child: dict[int, int] = {}
        for i in reversed(range(len(self))):
            expected[i] += expected[best_child[i]] if i in best_child else 0.0
            best = best_child.get(self.parents[i])
            if best is None or expected[i] >= expected[best]:
                best_child[self.parents[i]] = i
        path = []
        node = -1
        while node in best_child:
            node = best_child[node]
            path.append(node)
        return self.subset(path)


EMPTY_DRAFT = DraftSlice()


class DraftTree:
    """One session's committed output tokens and the live nodes below them."""

    def __init__(self, max_nodes: int, committed: Iterable[int] = (), epoch: int = 0) -> None:
        """`epoch` is the last one used before. Its start is unknown until its first draft, if any, arrives."""
        self.max_nodes = max_nodes
        self.committed: list[int] = list(committed)
        self._start_epoch(epoch, len(self.committed))
        self._is_inherited = True

    def __len__(self) -> int:
        """The number of live nodes below the cursor."""
        return len(self._nodes) - 1

    @property
    def surplus(self) -> int:
        """The number of committed tokens beyond the cursor."""
        return len(self.committed) - self._position

    @property
    def awaits_epoch(self) -> bool:
        """Whether no node of this epoch is of use any more, or none has ever arrived."""
        return self._is_contradicted or self._is_inherited

    @property
    def cursor(self) -> int:
        """The id of the deepest node on the committed path."""
        return self._cursor

    @property
    def next_id(self) -> int:
        """The lowest id that the next node of this epoch may have."""
        return self._last_id + 1

    def node(self, node_id: int) -> Node:
        """The live node of that id, the cursor included. Raises KeyError if there is none."""
        return self._nodes[node_id]

    def live_nodes(self) -> Iterable[Node]:
        """The live nodes by ascending id, the cursor first."""
        return self._nodes.values()

    def start_epoch(self) -> None:
        """Start a new epoch at the end of the committed text. An agent does so when its draft contradicts the text."""
        self._start_epoch(self.epoch + 1, len(self.committed))

    def add(
        self,
        epoch: int,
        at: int,
        first: int,
        tokens: Sequence[int],
        parents: Sequence[int],
        confidence: Sequence[int],
    ) -> int:
        """Add nodes (the columns of wire.Draft) and return how many of them were new.

        Nodes of an earlier epoch, without a live parent, or contradicting the committed text are dropped silently.

        Raises DraftViolation without adding anything, except that of too many nodes those that fit are added. A draft
        that is valid at a relay is valid at the verifier behind it, if the relay forwarded the complete epoch.
        """
        if not len(tokens) == len(parents) == len(confidence):
            raise DraftViolation("a draft's columns differ in length")
        if epoch < self.epoch:
            return 0
        if epoch > self.epoch + MAX_EPOCH_STEP:
            raise DraftViolation(f"epoch {epoch} is too far above epoch {self.epoch}")
        known = epoch == self.epoch and not self._is_inherited
        if known and at != self.at:
            raise DraftViolation(f"epoch {epoch} was planted at {self.at}, not at {at}")
        if at > len(self.committed):
            raise DraftViolation(f"an epoch is planted at {at}, past the {len(self.committed)} committed tokens")
        last_id = self._last_id if known else 0
        if first <= last_id:
            raise DraftViolation(f"node {first} does not come after node {last_id}")
        for node_id, parent in enumerate(parents, first):
            if not 0 <= parent < node_id:
                raise DraftViolation(f"node {node_id} has parent {parent}, which does not exist")
        if not known:
            self._start_epoch(epoch, at)
        added = 0
        for node_id, (token, parent, cost) in enumerate(zip(tokens, parents, confidence, strict=True), first):
            added += self._add_node(node_id, token, parent, cost)
            self._last_id = node_id
        return added

    def commit(self, at: int, tokens: Sequence[int]) -> int:
        """Append output tokens at positions at, at + 1, ... and return how many of them the tree contained.

        Raises ValueError when `at` is not the end of the committed text.
        """
        if at != len(self.committed):
            raise ValueError(f"commit at {at}, but {len(self.committed)} tokens are committed")
        before = self._position
        self.committed.extend(tokens)
        self._advance_cursor()
        return self._position - before

    def select(self, budget: int) -> DraftSlice:
        """The `budget` nodes of least cost; EMPTY_DRAFT while there is a surplus, since no node then follows the text.

        A child's path never costs less than its parent's and its id is higher, so the selection is connected.
        """
        if self.surplus or budget <= 0 or len(self._nodes) == 1:
            return EMPTY_DRAFT
        root = self._nodes[self._cursor]
        nodes = (node for node in self._nodes.values() if node is not root)
        selected = sorted(sorted(nodes, key=lambda n: (n.cost, n.id))[:budget], key=lambda n: n.id)
        index = {root.id: -1} | {node.id: i for i, node in enumerate(selected)}
        return DraftSlice(
            tokens=tuple(node.token for node in selected),
            parents=tuple(index[node.parent] for node in selected),
            costs=tuple(node.cost - root.cost for node in selected),
            depths=tuple(node.depth - root.depth for node in selected),
        )

    def path(self, node_id: int) -> list[int]:
        """The tokens from below the cursor down to a live node. Raises KeyError if there is none of that id."""
        tokens = []
        while node_id != self._cursor:
            node = self._nodes[node_id]
            tokens.append(node.token)
            node_id = node.parent
        return tokens[::-1]

    def _start_epoch(self, epoch: int, at: int) -> None:
        self.epoch, self.at = epoch, at
        self._nodes: dict[int, Node] = {0: Node(0, -1, -1, 0, 0)}
        self._cursor = 0
        self._last_id = 0
        self._position = at
        self._is_inherited = False
        self._is_contradicted = False

    def _add_node(self, node_id: int, token: int, parent_id: int, cost: int) -> bool:
        parent = self._nodes.get(parent_id)
        if parent is None or token in parent.children:
            return False
        is_late = parent_id == self._cursor and self.surplus > 0
        if is_late and token != self.committed[self._position]:
            self._is_contradicted = True
            return False
        if not is_late and len(self) >= self.max_nodes:
            raise DraftViolation(f"more than {self.max_nodes} drafted nodes are uncommitted")
        self._nodes[node_id] = Node(node_id, token, parent_id, parent.cost + cost, parent.depth + 1)
        parent.children[token] = node_id
        if is_late:
            self._advance_cursor()
        return True

    def _advance_cursor(self) -> None:
        while self._position < len(self.committed):
            cursor = self._nodes[self._cursor]
            drafted = len(cursor.children)
            hit = cursor.children.pop(self.committed[self._position], None)
            self._drop_subtrees(cursor.children.values())
            cursor.children.clear()
            if hit is None:
                self._is_contradicted = self._is_contradicted or drafted > 0
                return
            self._is_contradicted = False
            del self._nodes[self._cursor]
            self._cursor = hit
            self._position += 1

    def _drop_subtrees(self, ids: Iterable[int]) -> None:
        pending = list(ids)
        while pending:
            pending.extend(self._nodes.pop(pending.pop()).children.values())
