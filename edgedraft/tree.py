"""The draft tree: guesses that hang from the committed text, kept alike at agent, gateway and verifier.

The agent only adds nodes, the verifier only commits tokens; each end applies both in the order in which they reach it
and no order is wrong. Nothing is acknowledged. What makes that safe:

- A node is named by (epoch, id); ids count up within an epoch and a parent's id is below its child's.
- An epoch is planted after `at` output tokens, and node 0 stands for that place.
- The cursor is the deepest node on the committed path. Tokens committed beyond it are the surplus: their nodes are
  still under way, or were never drafted. A node that arrives late and equals the next surplus token moves the cursor
  on; any other node that hangs there contradicts the text and is dropped, and what hangs from a dropped node too.
- Only the cursor and what hangs below it is kept, so a tree never holds more than `max_nodes` live nodes, whatever
  the peer sends.

Confidences are costs, -16 * log2 of a probability (wire.Draft), so that along a path they add.
This file knows nothing of models, links or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# Epochs may pass unseen: those in which an agent sent nothing, those before a verifier took over. Each ends with a
# committed token, so no session has this many; and no agent may run the numbers out for those that follow it.
MAX_EPOCH_STEP = 1 << 20


class DraftViolation(Exception):
    """A draft that no correct agent sends. The message says which rule it breaks."""


@dataclass(slots=True)
class Node:
    """One drafted token. `cost` is its path's, from the epoch's root; children map token -> id."""

    id: int
    token: int
    parent: int
    cost: int
    depth: int
    children: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DraftSlice:
    """A connected part of a live tree, topologically ordered, as a verify takes it.

    parents[i] indexes this slice, -1 for the last committed token. costs are path costs from there, depths from 1.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    costs: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def chain(cls, tokens: Sequence[int], costs: Sequence[int] | None = None) -> DraftSlice:
        """One token behind the other; without `costs` all are taken for sure."""
        count = len(tokens)
        costs = (0,) * count if costs is None else tuple(costs)
        return cls(tuple(tokens), tuple(range(-1, count - 1)), costs, tuple(range(1, count + 1)))

    def subset(self, chosen: Sequence[int]) -> DraftSlice:
        """The part made of the nodes `chosen`, ascending, each with its parent. Raises KeyError without one."""
        place = {-1: -1} | {old: new for new, old in enumerate(chosen)}
        return DraftSlice(
            tokens=tuple(self.tokens[i] for i in chosen),
            parents=tuple(place[self.parents[i]] for i in chosen),
            costs=tuple(self.costs[i] for i in chosen),
            depths=tuple(self.depths[i] for i in chosen),
        )

    def most_likely_path(self) -> DraftSlice:
        """The part without branches, from the text downwards, that by the costs promises the most tokens."""
        promised = [2.0 ** (-cost / 16) for cost in self.costs]
        below: dict[int, int] = {}
        for i in reversed(range(len(self))):
            promised[i] += promised[below[i]] if i in below else 0.0
            best = below.get(self.parents[i])
            if best is None or promised[i] >= promised[best]:
                below[self.parents[i]] = i
        path = []
        node = -1
        while node in below:
            node = below[node]
            path.append(node)
        return self.subset(path)


EMPTY_DRAFT = DraftSlice()


class DraftTree:
    """One session's committed output tokens and the live nodes below them.

    `epoch` is the last one used before. Where it was planted is not known here: its first draft, if one comes, tells.
    """

    def __init__(self, max_nodes: int, committed: Iterable[int] = (), epoch: int = 0) -> None:
        self.max_nodes = max_nodes
        self.committed: list[int] = list(committed)
        self._start_epoch(epoch, len(self.committed))
        self._inherited = True

    def __len__(self) -> int:
        """How many live nodes hang below the cursor."""
        return len(self._nodes) - 1

    @property
    def surplus(self) -> int:
        """How many committed tokens lie beyond the cursor."""
        return len(self.committed) - self._position

    @property
    def cursor(self) -> int:
        """The id of the deepest node on the committed path."""
        return self._cursor

    @property
    def next_id(self) -> int:
        """The lowest id that the next node of this epoch may have."""
        return self._last_id + 1

    def node(self, node_id: int) -> Node:
        """The live node of that id, the cursor included. Raises KeyError."""
        return self._nodes[node_id]

    def live(self) -> Iterable[Node]:
        """The live nodes in the order of their ids, the cursor first."""
        return self._nodes.values()

    def start_epoch(self) -> None:
        """Begin a new epoch at the end of the committed text, as an agent does after a true mismatch."""
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
        """Take nodes in (the columns of wire.Draft); returns how many of them were news.

        Nodes of an earlier epoch, of a lost parent, or contradicting the committed text are dropped in silence.
        Raises Violation, and then nothing was taken; but of too many nodes those that fit were. What raises none at a
        relay raises none at a verifier behind it, to which the relay passed the whole epoch.
        """
        if not len(tokens) == len(parents) == len(confidence):
            raise DraftViolation("a draft's columns differ in length")
        if epoch < self.epoch:
            return 0
        if epoch > self.epoch + MAX_EPOCH_STEP:
            raise DraftViolation(f"epoch {epoch} is too far above epoch {self.epoch}")
        known = epoch == self.epoch and not self._inherited
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
        taken = 0
        for node_id, (token, parent, cost) in enumerate(zip(tokens, parents, confidence, strict=True), first):
            taken += self._add_node(node_id, token, parent, cost)
            self._last_id = node_id
        return taken

    def commit(self, at: int, tokens: Sequence[int]) -> int:
        """Append output tokens at, at + 1, ...; returns how many of them the tree had.

        Raises ValueError when `at` is not where the committed text ends.
        """
        if at != len(self.committed):
            raise ValueError(f"commit at {at}, but {len(self.committed)} tokens are committed")
        before = self._position
        self.committed.extend(tokens)
        self._advance_cursor()
        return self._position - before

    def select(self, budget: int) -> DraftSlice:
        """The `budget` most confident nodes; EMPTY while there is a surplus, for then none can be checked.

        A child's path is never more confident than its parent's and its id is higher, so the choice is connected.
        """
        if self.surplus or budget <= 0 or len(self._nodes) == 1:
            return EMPTY_DRAFT
        root = self._nodes[self._cursor]
        drafted = (node for node in self._nodes.values() if node is not root)
        chosen = sorted(sorted(drafted, key=lambda n: (n.cost, n.id))[:budget], key=lambda n: n.id)
        index = {root.id: -1} | {node.id: i for i, node in enumerate(chosen)}
        return DraftSlice(
            tokens=tuple(node.token for node in chosen),
            parents=tuple(index[node.parent] for node in chosen),
            costs=tuple(node.cost - root.cost for node in chosen),
            depths=tuple(node.depth - root.depth for node in chosen),
        )

    def path(self, node_id: int) -> list[int]:
        """The tokens from below the cursor down to a live node."""
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
        self._inherited = False

    def _add_node(self, node_id: int, token: int, parent_id: int, cost: int) -> bool:
        parent = self._nodes.get(parent_id)
        if parent is None or token in parent.children:
            return False
        behind = parent_id == self._cursor and self.surplus > 0
        if behind and token != self.committed[self._position]:
            return False
        if not behind and len(self) >= self.max_nodes:
            raise DraftViolation(f"more than {self.max_nodes} drafted nodes are uncommitted")
        self._nodes[node_id] = Node(node_id, token, parent_id, parent.cost + cost, parent.depth + 1)
        parent.children[token] = node_id
        if behind:
            self._advance_cursor()
        return True

    def _advance_cursor(self) -> None:
        while self._position < len(self.committed):
            cursor = self._nodes[self._cursor]
            hit = cursor.children.pop(self.committed[self._position], None)
            self._drop_subtrees(cursor.children.values())
            cursor.children.clear()
            if hit is None:
                return
            del self._nodes[self._cursor]
            self._cursor = hit
            self._position += 1

    def _drop_subtrees(self, ids: Iterable[int]) -> None:
        pending = list(ids)
        while pending:
            pending.extend(self._nodes.pop(pending.pop()).children.values())
