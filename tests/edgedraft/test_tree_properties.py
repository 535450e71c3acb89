"""Draft trees in a simulated world: whatever the links do and whatever an agent sends, only speed may suffer.

The world holds an agent, a relay (the gateway) and a verifier, each with its own DraftTree, joined by four FIFO links
that carry real frames. A schedule drawn by hypothesis says who acts next and which link delivers how much; it also
lets connections die with all that is on the way, loses single drafts and replaces the verifier. The target is a hash
of the prefix over a small vocabulary, so that wrong guesses, lucky ones and equal siblings all happen.

What an honest agent does here is what edge_agent has to do: keep to the window by its own copy, plant anew when its
copy falls behind the committed text, and when it is opened again go on above the epochs of both. What the relay does is
what the gateway has to do: after a verifier was replaced, open the session again at the agent, and until then pass
nothing on of epochs whose beginning the new verifier has not seen.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from edgedraft import wire
from edgedraft.tree import EMPTY_DRAFT, MAX_EPOCH_STEP, DraftSlice, DraftTree, DraftViolation
from edgedraft.wire import MAX_DRAFT_NODES, MAX_WINDOW, Commit, Draft, FrameDecoder, Open, Sampling

VOCABULARY = 5

M = TypeVar("M", bound=Struct)


def target(prefix: Sequence[int]) -> int:
    """The token that the target puts after these output tokens."""
    return zlib.crc32(bytes(prefix)) * 2654435761 % 2**32 * VOCABULARY >> 32


def reference(length: int) -> list[int]:
    """The text that the target writes alone."""
    text: list[int] = []
    while len(text) < length:
        text.append(target(text))
    return text


REFERENCE = reference(4096)


class Link:
    """One direction of a connection: what is sent arrives in order, some time, unless the connection dies."""

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

    def die(self) -> None:
        self._frames.clear()


class Agent:
    """Drafts for one session. skill is its chance of guessing the target; it knows of the text only what came in."""

    def __init__(self, opened: Open, last_epoch: int = 0) -> None:
        self.session = opened.session
        self.window = opened.window
        self.tree = DraftTree(MAX_WINDOW, opened.committed, max(opened.epoch, last_epoch))
        self.tree.start_epoch()

    def draft(self, count: int, skill: float, branching: float, rng: random.Random) -> Draft | None:
        """Up to `count` nodes, as far as the window allows; None where it is full."""
        tree, epoch, at, first = self.tree, self.tree.epoch, self.tree.at, self.tree.next_id
        assert tree.surplus == 0
        columns: list[tuple[int, int, int]] = []
        for _ in range(count):
            if len(tree) >= self.window:
                break
            live = [node.id for node in tree.live_nodes()]
            parent = rng.choice(live) if rng.random() < branching else self.tip()
            prefix = tree.committed + tree.path(parent)
            token = target(prefix) if rng.random() < skill else rng.randrange(VOCABULARY)
            column = (token, parent, rng.randrange(256))
            tree.add(epoch, at, tree.next_id, [column[0]], [column[1]], bytes([column[2]]))
            columns.append(column)
        if not columns:
            return None
        tokens, parents, confidence = zip(*columns, strict=True)
        return Draft(self.session, epoch, at, first, list(tokens), list(parents), bytes(confidence))

    def tip(self) -> int:
        """The deepest live node; of several the first."""
        return max(self.tree.live_nodes(), key=lambda node: (node.depth, -node.id)).id

    def receive(self, commit: Commit) -> None:
        self.window = commit.window
        self.tree.commit(commit.at, commit.tokens)
        if self.tree.surplus:
            self.tree.start_epoch()


class World:
    """Three ends and four links; every method is one thing that can happen, check() is what must always hold."""

    def __init__(self, honest: bool = True) -> None:
        self.honest = honest
        self.relay = DraftTree(MAX_WINDOW)
        self.verifier = DraftTree(MAX_WINDOW)
        self.up, self.over = Link(wire.decode_from_agent), Link(wire.decode_to_verifier)
        self.back, self.down = Link(wire.decode_from_verifier), Link(wire.decode_to_agent)
        self.agent: Agent | None = None
        self.known_epoch = 0  # the relay's: of this one and those before, the verifier lacks nodes
        self.verified = 0  # tokens that verify committed
        self.window = 16
        self.open_agent()

    # The agent

    def agent_drafts(self, count: int, skill: float, branching: float, rng: random.Random, lose: bool = False) -> None:
        draft = self.agent.draft(count, skill, branching, rng) if self.agent else None
        if draft and not lose:
            self.up.send(draft)

    def deliver_down(self, count: int) -> None:
        for message in self.down.deliver(count):
            if isinstance(message, Open):
                self.agent = Agent(message, self.agent.tree.epoch if self.agent else 0)
            elif self.agent:
                self.agent.receive(message)

    def agent_dies(self) -> None:
        """Its connection with all that is on the way; another agent takes the session over."""
        self.up.die()
        self.down.die()
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
                if self.honest:
                    raise
                self.agent_dies()
                return
            if draft.epoch > self.known_epoch:
                self.over.send(draft)

    def deliver_back(self, count: int) -> None:
        for commit in self.back.deliver(count):
            self.relay.commit(commit.at, commit.tokens)
            self.down.send(Commit(1, commit.at, commit.tokens, commit.window))

    # The verifier

    def deliver_over(self, count: int) -> None:
        for draft in self.over.deliver(count):
            add(self.verifier, draft)  # whoever the agent is: what passed the relay is no violation here

    def verify(self, budget: int) -> int:
        """One forward over the best nodes: what is right and one token more. Returns its yield."""
        before = len(self.verifier.committed)
        accepted = walk(self.verifier.committed, self.verifier.select(budget))
        self._commit([*accepted, target(self.verifier.committed + accepted)])
        self.verified += len(self.verifier.committed) - before
        return len(self.verifier.committed) - before

    def decode(self) -> None:
        """The draft deadline has passed: one plain token."""
        self._commit([target(self.verifier.committed)])

    def _commit(self, tokens: list[int]) -> None:
        at = len(self.verifier.committed)
        self.verifier.commit(at, tokens)
        self.back.send(Commit(1, at, tokens, self.window))

    def verifier_dies(self, reopen: bool = True) -> None:
        """With its link and all that is on it; another continues from the text that the relay has.

        Without `reopen` the agent goes on, and so does the relay, with an epoch whose beginning the new verifier lacks.
        """
        self.over.die()
        self.back.die()
        self.verifier = DraftTree(MAX_WINDOW, self.relay.committed, self.relay.epoch)
        if reopen:
            self.known_epoch = self.relay.epoch
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


def walk(committed: Sequence[int], drafted: DraftSlice) -> list[int]:
    """The drafted tokens that the target agrees with, from the root down."""
    child = {(p, t): i for i, (p, t) in enumerate(zip(drafted.parents, drafted.tokens, strict=True))}
    here, accepted = -1, []
    while (here := child.get((here, target([*committed, *accepted])), -1)) >= 0:
        accepted.append(drafted.tokens[here])
    return accepted


def check_tree(tree: DraftTree) -> None:
    """Bounds, and that exactly the cursor and what hangs from it is kept."""
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


# Every step is a kind, how much of it, and a seed for its details.
HONEST = (
    ["draft"] * 4
    + ["verify"] * 2
    + ["up", "up", "over", "over", "back", "back", "down", "down"]
    + ["decode", "lose", "agent dies", "verifier dies", "window", "skill", "all"]
)
Schedule = list[tuple[str, int, int]]


def schedules(kinds: Sequence[str], size: int) -> st.SearchStrategy[Schedule]:
    step = st.tuples(st.sampled_from(kinds), st.integers(1, 12), st.integers(0, 2**16))
    return st.lists(step, min_size=size // 4, max_size=size)


def play(world: World, schedule: Schedule, skill: float = 0.7, branching: float = 0.3) -> None:
    for kind, amount, seed in schedule:
        rng = random.Random(seed)
        if kind in ("draft", "lose"):
            world.agent_drafts(amount, skill, branching, rng, lose=kind == "lose")
        elif kind == "verify":
            world.verify(amount)
        elif kind == "decode":
            world.decode()
        elif kind == "lie":
            world.up.send(lie(world.relay, rng))
        elif kind == "agent dies":
            world.agent_dies()
        elif kind == "verifier dies":
            # A liar could make use of a gateway that passes on half an epoch: what was lost it may say once more.
            world.verifier_dies(reopen=seed % 2 == 0 or not world.honest)
        elif kind == "window":
            world.window = seed % (MAX_WINDOW + 1)
        elif kind == "skill":
            skill, branching = rng.choice([0.0, 0.5, 0.9, 1.0]), rng.choice([0.0, 0.3, 1.0])
        elif kind == "all":
            deliver_all(world)
        else:
            getattr(world, f"deliver_{kind}")(amount)
        world.check()


def deliver_all(world: World) -> None:
    while world.up or world.over or world.back or world.down:
        for deliver in (world.deliver_up, world.deliver_over, world.deliver_back, world.deliver_down):
            deliver(10**6)


@settings(deadline=None, max_examples=200)
@given(schedules(HONEST, 100))
def test_text_and_bounds_under_any_schedule(schedule: Schedule) -> None:
    world = World()
    play(world, schedule)
    deliver_all(world)
    world.check()
    assert world.relay.committed == world.verifier.committed
    assert world.agent
    assert world.agent.tree.committed == world.verifier.committed


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_text_and_bounds_over_long_runs(seed: int) -> None:
    """Long enough for node ids, epochs and windows to leave the region of small numbers."""
    rng = random.Random(seed)
    world = World()
    play(world, [(rng.choice(HONEST), rng.randint(1, 12), rng.randrange(2**16)) for _ in range(1000)])


@settings(deadline=None, max_examples=100)
@given(schedules(HONEST, 60), st.integers(1, 4))
def test_drafts_are_used_again_after_any_schedule(schedule: Schedule, delay: int) -> None:
    """Whatever happened before: once an agent that guesses well is opened, verification yields more than decoding."""
    world = World()
    play(world, schedule)
    world.window = MAX_WINDOW
    world.agent_dies()
    pace = Pace(world, delay, rate=4)
    pace.run(40)
    assert pace.run(20) > 2


@settings(deadline=None, max_examples=40)
@given(
    delay=st.integers(1, 5),
    rate=st.integers(2, 6),
    head_start=st.integers(0, 30),
    window=st.integers(40, MAX_WINDOW),
)
def test_perfect_drafts_hide_the_way(delay: int, rate: int, head_start: int, window: int) -> None:
    """An agent that is right and faster than the verifier catches up with any head start; then no tick is wasted.

    From then on the yield is the agent's rate, or what the window lets through in the time a node takes to the
    verifier and its commit back: the round trip costs nothing.
    """
    world = World()
    world.window = window
    deliver_all(world)
    for _ in range(head_start):
        world.decode()
    pace = Pace(world, delay, rate)
    pace.run(100)
    round_trip = 4 * delay + 2  # from drafting a node to drafting in the room that its commit gave back
    assert pace.run(10 * round_trip) > min(rate, window / round_trip) - 0.25


class Pace:
    """A steady run: each tick a perfect agent adds `rate` nodes, the verifier verifies, a link takes `delay` ticks."""

    def __init__(self, world: World, delay: int, rate: int) -> None:
        self.world, self.rate = world, rate
        self._links = [
            (world.up, world.deliver_up, deque([0] * delay)),
            (world.over, world.deliver_over, deque([0] * delay)),
            (world.back, world.deliver_back, deque([0] * delay)),
            (world.down, world.deliver_down, deque([0] * delay)),
        ]

    def run(self, ticks: int) -> float:
        """Returns the mean yield of a verify."""
        rng = random.Random(0)
        start = self.world.verified
        for _ in range(ticks):
            self.world.agent_drafts(self.rate, 1.0, 0.0, rng)
            self.world.verify(64)
            for link, deliver, pending in self._links:
                pending.append(len(link) - sum(pending))  # what lies in it and was not counted before
                deliver(pending.popleft())
            self.world.check()
        return (self.world.verified - start) / ticks


def test_a_draft_lost_within_an_epoch_silences_it_until_the_next() -> None:
    """Nodes below a gap are lost with it. That is safe; only a new epoch (or the session opened again) ends it."""
    world = World()
    world.window = MAX_WINDOW
    deliver_all(world)
    rng = random.Random(0)
    world.agent_drafts(3, 1.0, 0.0, rng)
    world.agent_drafts(1, 1.0, 0.0, rng, lose=True)
    pace = Pace(world, delay=1, rate=3)
    pace.run(20)
    assert pace.run(20) == 1
    world.open_agent()
    pace.run(20)
    assert pace.run(20) > 2


def test_a_slow_agent_never_runs_out_of_epochs() -> None:
    """Thousands of mismatches while nothing is sent (window 0): the first draft after them is welcome everywhere."""
    world = World()
    world.window = 0
    deliver_all(world)
    for _ in range(3000):
        world.decode()
        deliver_all(world)
    world.window = 8
    world.decode()
    deliver_all(world)
    world.agent_drafts(8, 1.0, 0.0, random.Random(0))
    deliver_all(world)
    assert world.verify(8) == 9


def test_a_verifier_takes_over_after_many_epochs() -> None:
    """A new verifier has seen none of a long session's epochs; drafts already on the way must not offend it."""
    world = World()
    deliver_all(world)
    rng = random.Random(0)
    for _ in range(1500):
        world.agent_drafts(2, 0.0, 0.0, rng)
        world.verify(2)
        deliver_all(world)
    world.agent_drafts(3, 1.0, 0.0, rng)
    world.verifier_dies(reopen=False)
    deliver_all(world)
    world.verify(8)
    world.open_agent()
    deliver_all(world)
    world.agent_drafts(8, 1.0, 0.0, rng)
    deliver_all(world)
    assert world.verify(8) == 9


# A lying agent: it knows what the relay holds, and says mostly what comes near to it.


def lie(tree: DraftTree, rng: random.Random) -> Draft:
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


@settings(deadline=None, max_examples=200)
@given(schedules(["lie"] * 8 + HONEST, 100))
def test_a_liar_changes_nothing_but_speed(schedule: Schedule) -> None:
    world = World(honest=False)
    play(world, schedule)
    deliver_all(world)
    world.check()
    assert world.relay.committed == world.verifier.committed


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(["verify", "decode", "wait", "wait", "wait"]))),
    max_nodes=st.integers(0, 8) | st.just(MAX_WINDOW),
)
def test_a_lie_is_taken_dropped_or_a_violation(steps: list[tuple[int, str]], max_nodes: int) -> None:
    """One tree that goes on after violations, as none does in service."""
    tree = DraftTree(max_nodes)
    for seed, then in steps:
        suffer(tree, lie(tree, random.Random(seed)), then)


@settings(deadline=None, max_examples=100)
@given(
    drafts=st.lists(
        st.builds(
            Draft,
            session=st.just(1),
            epoch=st.integers(0, 4) | st.integers(0, 2**53),
            at=st.integers(0, 6) | st.integers(0, 2**31 - 1),
            first=st.integers(0, 12) | st.integers(0, 2**53),
            tokens=st.lists(st.integers(0, VOCABULARY), min_size=1, max_size=6),
            parents=st.lists(st.integers(0, 12) | st.integers(0, 2**53), max_size=6),
            confidence=st.binary(max_size=6),
        ),
        max_size=30,
    )
)
def test_any_draft_is_taken_dropped_or_a_violation(drafts: list[Draft]) -> None:
    tree = DraftTree(4)
    for draft in drafts:
        suffer(tree, draft, "verify")


def suffer(tree: DraftTree, draft: Draft, then: str) -> None:
    live = len(tree)
    try:
        taken = add(tree, draft)
    except DraftViolation:
        pass
    else:
        assert 0 <= taken <= len(draft.tokens)
        assert len(tree) <= live + taken
    check_tree(tree)
    if then != "wait":
        drafted = tree.select(4 if then == "verify" else 0)
        accepted = walk(tree.committed, drafted)
        tree.commit(len(tree.committed), [*accepted, target(tree.committed + accepted)])
        check_tree(tree)
        assert tree.committed == REFERENCE[: len(tree.committed)]


@pytest.mark.parametrize("committed", [0, 5])
def test_an_empty_tree_has_nothing_to_verify(committed: int) -> None:
    assert DraftTree(8, range(committed)).select(8) is EMPTY_DRAFT
