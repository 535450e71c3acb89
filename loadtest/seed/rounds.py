"""SpecEdge's way: a desktop drafts a tree of a fixed size, sends it, and gambles one more round while it waits.

The gamble drafts on from the tree's best leaf and the likeliest token behind it, and is of use if the answer is just
that. The server checks whatever trees have arrived, together; a session without one does not get on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Commit, Draft, Open, encode_frame
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fixed import FixedServer
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.profiles import Device, Link, Way
from loadtest.seed.target import Target
from verifier.scheduling.step_costs import StepCosts


@dataclass(frozen=True)
class Round:
    """Looks of the draft model a round, and nodes of a tree."""

    looks: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.looks} deep, {self.nodes} nodes"


@dataclass
class _Desktop:
    up: Way
    down: Way
    lookup: PromptLookupDrafter
    free: float = 0.0  # when it has taken the prompt in
    sent: float | None = None
    guessed: list[int] | None = None  # what the gamble takes the answer to be


class Rounds:
    """One proactive round a verify."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        edge: tuple[Device, Link, Drafts],
        plan: Round,
        seed: int = 0,
    ) -> None:
        self.meters = Meters()
        self.clock = self._clock = clock
        self._plan = plan
        self._device, self._link, self._drafts = edge
        self._dice = random.Random(seed)
        self._server = FixedServer(target, steps, self.meters)
        self._desktops: dict[int, _Desktop] = {}
        self._arrived: dict[int, DraftSlice] = {}
        self._stepping = False
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        self._server.clear()
        self._arrived.clear()

    def begin(self, stream: Stream) -> None:
        link = self._link
        desktop = self._desktops.setdefault(
            stream.slot,
            _Desktop(
                Way(self._clock, link, link.up, self._dice),
                Way(self._clock, link, link.down, self._dice),
                PromptLookupDrafter(),
            ),
        )
        takes = self._device.prompt(len(stream.chat.prompt) + stream.known)
        desktop.free, desktop.sent, desktop.guessed = self._clock.now + self._link.trip / 2 + takes, None, None
        self.meters.desktops += takes
        desktop.lookup.open(stream.key)
        self._server.open(stream)
        if not self._server.sessions[stream.key].under_way:
            self._turn()
            return
        self._round(stream.key, 0.0)  # it has been running

    def _round(self, key: int, ready: float) -> None:
        """The desktop drafts its next tree, which takes its looks less those that are `ready`, in seconds."""
        if key not in self._server.sessions:
            return
        stream = self._server.sessions[key].stream
        desktop = self._desktops[stream.slot]
        tree, session, looks = self._tree(key)
        takes = max(0.0, looks * self._device.look - ready)
        self.meters.desktops += takes
        takes += max(0.0, desktop.free - self._clock.now)

        def send() -> None:
            desktop.sent = self._clock.now
            desktop.guessed = self._guess(key, tree, desktop)
            size = len(encode_frame(_message(key, session, tree)))
            self.meters.up += size
            desktop.up.send(size, lambda: self._receive(key, tree))

        self._clock.after(takes, send)

    def _tree(self, key: int) -> tuple[DraftSlice, DraftSession, int]:
        """The tree behind what is committed, and how many looks it took."""
        served = self._server.sessions[key]
        chat, desktop = served.stream.chat, self._desktops[served.stream.slot]
        opened = Open(key, list(chat.prompt), chat.sampling, chat.most, list(served.said), self._plan.nodes)
        session = DraftSession(opened, 1)
        looks = 0
        for _ in range(self._plan.looks):
            if (wanted := session.next_request()) is None:
                break
            looks += 1
            session.add_proposal(wanted[0], self._drafts.answer(self._drafts.ask(chat, wanted[1], desktop.lookup)))
        return session.tree.select(self._plan.nodes), session, looks

    def _guess(self, key: int, tree: DraftSlice, desktop: _Desktop) -> list[int] | None:
        """What the answer will be if the best leaf is right: its path and the likeliest token behind it."""
        served = self._server.sessions.get(key)
        if served is None or not len(tree):
            return None
        leaves = set(range(len(tree))) - set(tree.parents)
        node = min(leaves, key=lambda i: tree.costs[i])
        path: list[int] = []
        while node >= 0:
            path.insert(0, tree.tokens[node])
            node = tree.parents[node]
        chat = served.stream.chat
        context = [*chat.prompt, *served.said, *path]
        point = DraftRequest(
            key, context, len(chat.prompt) + len(served.said), len(served.said) + len(path), chat.sampling
        )
        bonus = self._drafts.answer(self._drafts.ask(chat, point, desktop.lookup))
        if not bonus.tokens:
            return None
        roots = [i for i, parent in enumerate(bonus.parents) if parent == -1]
        return [*path, bonus.tokens[max(roots, key=lambda i: bonus.probabilities[i])]]

    def _receive(self, key: int, tree: DraftSlice) -> None:
        if key in self._server.sessions:
            self._arrived[key] = tree
            self._turn()

    def _turn(self) -> None:
        if self._stepping:
            return
        trees, self._arrived = self._arrived, {}
        made = self._server.step(trees)
        if made is None:
            return
        progress, took = made
        self._stepping = True

        def stepped() -> None:
            self.meters.server += took
            before = {key: (s.stream, len(s.said)) for key, s in self._server.sessions.items()}
            going = self._server.apply(progress, self._committed)
            # What found no room in the KV cache stands in line for the next step.
            left = trees.keys() - {item.session for item in progress}
            self._arrived = {key: trees[key] for key in left if key in self._server.sessions} | self._arrived
            for item in progress:
                if item.tokens:
                    stream, at = before[item.session]
                    self._answer(stream, at, item.tokens, item.session in going)
            self._stepping = False
            self._turn()

        self._clock.after(took, stepped)

    def _answer(self, stream: Stream, at: int, tokens: Sequence[int], going: bool) -> None:
        desktop = self._desktops[stream.slot]
        size = len(encode_frame([Commit(stream.key, at, list(tokens))]))
        self.meters.down += size

        def received() -> None:
            if not going:
                return
            ready = self._gambled(desktop, tokens)
            desktop.guessed = None
            self._round(stream.key, ready)

        desktop.down.send(size, received)

    def _gambled(self, desktop: _Desktop, answer: Sequence[int]) -> float:
        """Seconds of the next round that are done already; below zero, those until a look in vain is over."""
        if desktop.sent is None:
            return 0.0
        look, waited = self._device.look, self._clock.now - desktop.sent
        gamble = min(waited, (self._plan.looks + 1) * look)  # its first look was for the token behind the leaf
        self.meters.desktops += gamble
        if desktop.guessed == list(answer):
            return max(0.0, gamble - look)
        return -(-waited % look) if gamble == waited else 0.0


def _message(key: int, session: DraftSession, tree: DraftSlice) -> list[Draft]:
    """The tree as it crosses the link; an empty frame where there is nothing to guess."""
    if tree == EMPTY_DRAFT:
        return []
    nodes = zip(tree.costs, tree.parents, strict=True)
    confidence = bytes(min(255, cost - (tree.costs[parent] if parent >= 0 else 0)) for cost, parent in nodes)
    parents = [parent + 1 for parent in tree.parents]
    return [Draft(key, session.tree.epoch, session.tree.at, 1, [*tree.tokens], parents, confidence)]
