"""A simulated session with an agent, a relay (the gateway) and a verifier, for property tests of the draft tree.

Each end has its own DraftTree. Four FIFO links join them and carry encoded frames. A schedule drawn by hypothesis says
which end acts next and which link delivers how much. It also breaks connections with all frames in flight, loses single
drafts and replaces the verifier. The target is a hash of the prefix over a small vocabulary, so wrong tokens, tokens
that are right by chance and equal siblings all occur.

The agent follows the rules of edge_agent: it keeps to the window by its own copy of the tree, starts a new epoch when
its copy falls behind the committed text, and when the session is reopened continues above the last epoch of both. The
relay follows those of the gateway: after the verifier was replaced it reopens the session at the agent, and until then
forwards nothing of epochs whose beginning the new verifier has not received.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from edgedraft import wire
from edgedraft.tree import MAX_EPOCH_STEP, DraftSlice, DraftTree, DraftViolation
from edgedraft.wire import MAX_DRAFT_NODES, MAX_WINDOW, Commit, Draft, FrameDecoder, Open, Sampling

VOCABULARY = 5


def target(prefix: Sequence[int]) -> int:
    """The target's next token after these output tokens."""
    return zlib.crc32(bytes(prefix)) * 2654435761 % 2**32 * VOCABULARY >> 32


def reference(length: int) -> list[int]:
    """The first `length` tokens of the target's own text."""
    text: list[int] = []
    while len(text) < length:
        text.append(target(text))
    return text


REFERENCE = reference(4096)


class Link:
    """One direction of a connection: frames arrive in order, after any delay, unless the connection breaks."""

    def __init__(self, decoder: FrameDecoder[Any]) -> None:
        self._decoder = decoder
        self._frames: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def send(self, message: Struct) -> None:
        self._frames.append(wire.encode_frame([message]))

    def deliver(self, count: int) -> list[Any]:
        frames = [self._frames.popleft() for _ in range(min(count, len(self._frames)))]
        return [message for frame in frames for message in self._decoder(frame)]

    def drop(self) -> None:
        self._frames.clear()


class Agent:
    """Drafts for one session. It knows only the text that it has received."""

    def __init__(self, opened: Open, last_epoch: int = 0) -> None:
        self.session = opened.session
        self.window = opened.window
        self.tree = DraftTree(MAX_WINDOW, opened.committed, max(opened.epoch, last_epoch))
        self.tree.start_epoch()

    def draft(self, count: int, skill: float, branching: float, rng: random.Random) -> Draft | None:
        """Up to `count` nodes, as far as the window allows; None if it is full.

        `skill` is the probability of drafting the target's token, `branching` that of not extending the deepest node.
        """
        tree, epoch, at, first = self.tree, self.tree.epoch, self.tree.at, self.tree.next_id
        assert tree.surplus == 0
        columns: list[tuple[int, int, int]] = []
        for _ in range(count):
            if len(tree) >= self.window:
                break
            live = [node.id for node in tree.live_nodes()]
            parent = rng.choice(live) if rng.random() < branching else self.deepest_node()
            prefix = tree.committed + tree.path(parent)
            token = target(prefix) if rng.random() < skill else rng.randrange(VOCABULARY)
            column = (token, parent, rng.randrange(256))
            tree.add(epoch, at, tree.next_id, [column[0]], [column[1]], bytes([column[2]]))
            columns.append(column)
        if not columns:
            return None
        tokens, parents, confidence = zip(*columns, strict=True)
        return Draft(self.session, epoch, at, first, list(tokens), list(parents), bytes(confidence))

    def deepest_node(self) -> int:
        """The deepest live node, of several the first."""
        return max(self.tree.live_nodes(), key=lambda node: (node.depth, -node.id)).id

    def receive(self, commit: Commit) -> None:
        self.window = commit.window
        self.tree.commit(commit.at, commit.tokens)
        if self.tree.surplus:
            self.tree.start_epoch()


class Simulation:
    """Three ends and four links. Each method is one event; check() asserts what must hold after every event."""

    def __init__(self, is_correct: bool = True) -> None:
        self.is_correct = is_correct
        self.relay = DraftTree(MAX_WINDOW)
        self.verifier = DraftTree(MAX_WINDOW)
        self.up, self.over = Link(wire.decode_from_agent), Link(wire.decode_to_verifier)
        self.back, self.down = Link(wire.decode_from_verifier), Link(wire.decode_to_agent)
        self.agent: Agent | None = None
        self.incomplete_epoch = 0  # the verifier may lack nodes of this epoch and of earlier ones
        self.verified = 0  # tokens committed by verify()
        self.window = 16
        self.open_agent()

    # The agent

    def agent_draft_nodes(
        self, count: int, skill: float, branching: float, rng: random.Random, lose: bool = False
    ) -> None:
        draft = self.agent.draft(count, skill, branching, rng) if self.agent else None
        if draft and not lose:
            self.up.send(draft)

    def deliver_down(self, count: int) -> None:
        for message in self.down.deliver(count):
            if isinstance(message, Open):
                self.agent = Agent(message, self.agent.tree.epoch if self.agent else 0)
            elif self.agent:
                self.agent.receive(message)

    def replace_agent(self) -> None:
        """Break its connection with all frames in flight; another agent takes over the session."""
        self.up.drop()
        self.down.drop()
        self.agent = None
        self.open_agent()

    # The relay

    def open_agent(self) -> None:
        self.down.send(
            Open(
                session=1,
                prompt=[1],
                sampling=Sampling(),
                max_tokens=len(REFERENCE),
                committed=self.relay.committed,
                window=self.window,
                epoch=self.relay.epoch,
            )
        )

    def deliver_up(self, count: int) -> None:
        for draft in self.up.deliver(count):
            try:
                add(self.relay, draft)
            except DraftViolation:
                if self.is_correct:
                    raise
                self.replace_agent()
                return
            if draft.epoch > self.incomplete_epoch:
                self.over.send(draft)

    def deliver_back(self, count: int) -> None:
        for commit in self.back.deliver(count):
            self.relay.commit(commit.at, commit.tokens)
            self.down.send(Commit(1, commit.at, commit.tokens, commit.window))

    # The verifier

    def deliver_over(self, count: int) -> None:
        for draft in self.over.deliver(count):
            add(self.verifier, draft)  # what passed the relay never raises DraftViolation here

    def verify(self, budget: int) -> int:
        """Verify up to `budget` nodes, commit the accepted ones and one more token, and return how many those are."""
        before = len(self.verifier.committed)
        accepted = accepted_path(self.verifier.committed, self.verifier.select(budget))
        self._commit([*accepted, target(self.verifier.committed + accepted)])
        self.verified += len(self.verifier.committed) - before
        return len(self.verifier.committed) - before

    def decode(self) -> None:
        """Commit one token without a draft."""
        self._commit([target(self.verifier.committed)])

    def _commit(self, tokens: list[int]) -> None:
        at = len(self.verifier.committed)
        self.verifier.commit(at, tokens)
        self.back.send(Commit(1, at, tokens, self.window))

    def replace_verifier(self, reopen: bool = True) -> None:
        """Break its connection with all frames in flight; another verifier continues from the relay's text.

        Without `reopen`, agent and relay continue with an epoch whose beginning the new verifier lacks.
        """
        self.over.drop()
        self.back.drop()
        self.verifier = DraftTree(MAX_WINDOW, self.relay.committed, self.relay.epoch)
        if reopen:
            self.incomplete_epoch = self.relay.epoch
            self.open_agent()

    # What must hold

    def check(self) -> None:
        check_tree(self.verifier)
        check_tree(self.relay)
        ends = [self.verifier.committed, self.relay.committed]
        if self.agent:
            check_tree(self.agent.tree)
            ends.append(self.agent.tree.committed)
        assert [len(text) for text in ends] == sorted((len(text) for text in ends), reverse=True)
        for text in ends:
            assert text == REFERENCE[: len(text)]


def add(tree: DraftTree, draft: Draft) -> int:
    return tree.add(draft.epoch, draft.at, draft.first, draft.tokens, draft.parents, draft.confidence)


def accepted_path(committed: Sequence[int], drafted: DraftSlice) -> list[int]:
    """The draft tokens that the target accepts, from the root down."""
    child = {(p, t): i for i, (p, t) in enumerate(zip(drafted.parents, drafted.tokens, strict=True))}
    here, accepted = -1, []
    while (here := child.get((here, target([*committed, *accepted])), -1)) >= 0:
        accepted.append(drafted.tokens[here])
    return accepted


def check_tree(tree: DraftTree) -> None:
    """Assert the bounds, and that exactly the cursor and its descendants are kept."""
    nodes = tree._nodes
    assert len(tree) == len(nodes) - 1 <= tree.max_nodes
    assert 0 <= tree.surplus <= len(tree.committed)
    assert not (tree.surplus and len(tree))
    root = nodes[tree.cursor]
    seen = 0
    pending = [root]
    while pending:
        node = pending.pop()
        seen += 1
        assert len(node.children) <= len(nodes)
        for token, child_id in node.children.items():
            child = nodes[child_id]
            assert (child.token, child.parent, child.depth) == (token, node.id, node.depth + 1)
            assert child.id > node.id
            assert child.cost >= node.cost
            pending.append(child)
    assert seen == len(nodes)


# A schedule's steps are (kind, amount, seed for its details).
EVENTS = (
    ["draft"] * 4
    + ["verify"] * 2
    + ["up", "up", "over", "over", "back", "back", "down", "down"]
    + ["decode", "lose", "replace agent", "replace verifier", "window", "skill", "all"]
)
Schedule = list[tuple[str, int, int]]


def schedules(kinds: Sequence[str], size: int) -> st.SearchStrategy[Schedule]:
    step = st.tuples(st.sampled_from(kinds), st.integers(1, 12), st.integers(0, 2**16))
    return st.lists(step, min_size=size // 4, max_size=size)


def run_schedule(sim: Simulation, schedule: Schedule, skill: float = 0.7, branching: float = 0.3) -> None:
    for kind, amount, seed in schedule:
        rng = random.Random(seed)
        if kind in ("draft", "lose"):
            sim.agent_draft_nodes(amount, skill, branching, rng, lose=kind == "lose")
        elif kind == "verify":
            sim.verify(amount)
        elif kind == "decode":
            sim.decode()
        elif kind == "adversarial draft":
            sim.up.send(adversarial_draft(sim.relay, rng))
        elif kind == "replace agent":
            sim.replace_agent()
        elif kind == "replace verifier":
            # If the relay forwarded half an epoch, an adversarial agent could send the lost half once more.
            sim.replace_verifier(reopen=seed % 2 == 0 or not sim.is_correct)
        elif kind == "window":
            sim.window = seed % (MAX_WINDOW + 1)
        elif kind == "skill":
            skill, branching = rng.choice([0.0, 0.5, 0.9, 1.0]), rng.choice([0.0, 0.3, 1.0])
        elif kind == "all":
            deliver_all(sim)
        else:
            getattr(sim, f"deliver_{kind}")(amount)
        sim.check()


def deliver_all(sim: Simulation) -> None:
    while sim.up or sim.over or sim.back or sim.down:
        for deliver in (sim.deliver_up, sim.deliver_over, sim.deliver_back, sim.deliver_down):
            deliver(10**6)


class SteadyRun:
    """In each tick a perfect agent adds `rate` nodes and the verifier verifies; each link takes `delay` ticks."""

    def __init__(self, sim: Simulation, delay: int, rate: int) -> None:
        self.sim, self.rate = sim, rate
        self._links = [
            (sim.up, sim.deliver_up, deque([0] * delay)),
            (sim.over, sim.deliver_over, deque([0] * delay)),
            (sim.back, sim.deliver_back, deque([0] * delay)),
            (sim.down, sim.deliver_down, deque([0] * delay)),
        ]

    def run(self, ticks: int) -> float:
        """The mean number of tokens committed per tick."""
        rng = random.Random(0)
        start = self.sim.verified
        for _ in range(ticks):
            self.sim.agent_draft_nodes(self.rate, 1.0, 0.0, rng)
            self.sim.verify(64)
            for link, deliver, pending in self._links:
                pending.append(len(link) - sum(pending))  # frames sent since the last tick
                deliver(pending.popleft())
            self.sim.check()
        return (self.sim.verified - start) / ticks


def adversarial_draft(tree: DraftTree, rng: random.Random) -> Draft:
    """A draft by an agent that knows the relay's tree: most of its numbers are close to valid ones."""

    def near(number: int) -> int:
        far = rng.choice([-(2**40), -MAX_EPOCH_STEP - 1, MAX_EPOCH_STEP, MAX_EPOCH_STEP + 1, 2**40])
        return max(0, number + rng.choice([0] * 20 + [-3, -2, -1, 1, 2, 3] + [far]))

    epoch = near(tree.epoch + (rng.random() < 0.2))
    first = near(tree.next_id if epoch == tree.epoch else 1)
    size = rng.randint(1, rng.choice([1, 8, MAX_DRAFT_NODES]))
    parents = [max(0, first + i - 1 - int(rng.expovariate(0.5))) for i in range(size)]
    if rng.random() < 0.1:
        parents[rng.randrange(size)] = near(first + size)
    return Draft(
        session=1,
        epoch=epoch,
        at=min(near(tree.at if epoch == tree.epoch else rng.randint(0, len(tree.committed))), 2**31 - 1),
        first=first,
        tokens=[rng.choice([rng.randrange(VOCABULARY), rng.randrange(2**31)]) for _ in range(size)],
        parents=parents[: size - (rng.random() < 0.03)],
        confidence=rng.randbytes(size),
    )
