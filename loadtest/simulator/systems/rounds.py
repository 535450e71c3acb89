"""Drafting in rounds: a device drafts a tree of fixed depth, sends it and waits for the result.

With `proactive` it drafts one more round while it waits, as SpecEdge does (arXiv 2505.17052): from the tree's most
probable leaf and the most likely token behind it, which helps if the result is exactly that. The server verifies all
trees that have arrived together; a session without a tree does not advance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.drafters.interface import DraftRequest
from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DEFAULT_MIN_PATH, DraftSession
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import MAX_WINDOW, Commit, Draft, Open, encode_frame
from loadtest.simulator.clock import Clock
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.network import LinkDirection
from loadtest.simulator.profiles import EdgeProfile
from loadtest.simulator.systems.fixed_tree_verifier import FixedTreeVerifier
from loadtest.simulator.target import Target
from verifier.scheduling.step_costs import StepCosts

WINDOW_PER_NODE = 4  # drafted nodes, of which the most probable ones are sent


@dataclass(frozen=True)
class RoundPlan:
    """Draft forwards per round, nodes per tree, whether a round is drafted while waiting, and positions per forward.

    Nodes whose path is less probable than `min_path` are neither drafted further nor sent.
    """

    depth: int
    nodes: int
    proactive: bool = True
    width: int = 1
    min_path: float = DEFAULT_MIN_PATH

    def __str__(self) -> str:
        return f"{self.depth} deep, {self.nodes} nodes, {self.width} wide, from {self.min_path:g} on"


@dataclass
class _Device:
    uplink: LinkDirection
    downlink: LinkDirection
    lookup: PromptLookupDrafter | None
    ready_at: float = 0.0  # when its prompt is computed
    sent_at: float | None = None
    expected: list[int] | None = None  # the result that the proactive round builds on


class DraftRounds:
    """One tree per round and stream."""

    def __init__(
        self, clock: Clock, target: Target, steps: StepCosts, edge: EdgeProfile, plan: RoundPlan, seed: int = 0
    ) -> None:
        """`seed` is that of the links' jitter and loss."""
        self.meters = Meters()
        self.clock = clock
        self._plan, self._edge = plan, edge
        self._window = min(MAX_WINDOW, WINDOW_PER_NODE * plan.nodes)
        self._rng = random.Random(seed)
        self._verifier = FixedTreeVerifier(target, steps, self.meters)
        self._devices: dict[int, _Device] = {}
        self._arrived: dict[int, DraftSlice] = {}
        self._stepping = False
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        self._verifier.clear()
        self._arrived.clear()

    def submit(self, stream: Stream) -> None:
        device = self._device(stream.device)
        seconds = self._edge.device.prefill_seconds(len(stream.chat.prompt) + stream.num_prior)
        device.ready_at = self.clock.now + self._edge.link.rtt / 2 + seconds
        device.sent_at = device.expected = None
        self.meters.device_seconds += seconds
        if device.lookup:
            device.lookup.open(stream.key)
        self._verifier.open(stream)
        if self._verifier.sessions[stream.key].decoding:
            self._start_round(stream.key, 0.0)
        else:
            self._step()

    def _device(self, number: int) -> _Device:
        if number not in self._devices:
            link = self._edge.link
            self._devices[number] = _Device(
                LinkDirection(self.clock, link, link.uplink_bps, self._rng),
                LinkDirection(self.clock, link, link.downlink_bps, self._rng),
                PromptLookupDrafter() if self._edge.prompt_lookup else None,
            )
        return self._devices[number]

    def _start_round(self, key: int, done_seconds: float) -> None:
        """Drafts the next tree, which takes its forwards less `done_seconds` of them."""
        if key not in self._verifier.sessions:
            return
        device = self._devices[self._verifier.sessions[key].stream.device]
        tree, session, forwards = self._draft(key)
        seconds = max(0.0, forwards * self._edge.device.forward_seconds - done_seconds)
        self.meters.device_seconds += seconds
        seconds += max(0.0, device.ready_at - self.clock.now)

        def send() -> None:
            device.sent_at = self.clock.now
            device.expected = self._expected_result(key, tree, device)
            size = len(encode_frame(_draft_message(key, session, tree)))
            self.meters.bytes_up += size
            device.uplink.send(size, lambda: self._receive(key, tree))

        self.clock.call_later(seconds, send)

    def _draft(self, key: int) -> tuple[DraftSlice, DraftSession, int]:
        """The tree behind what is committed, and how many draft forwards it took."""
        verified = self._verifier.sessions[key]
        chat, lookup = verified.stream.chat, self._devices[verified.stream.device].lookup
        opened = Open(key, list(chat.prompt), chat.sampling, chat.max_tokens, list(verified.generated), self._window)
        session = DraftSession(opened, 1)
        session.min_path = self._plan.min_path
        forwards = 0
        for _ in range(self._plan.depth):
            wanted = session.candidates(self._plan.width)
            if not wanted:
                break
            forwards += 1
            model = self._edge.draft_model
            pending = [(node, model.start_forward(chat, session.request_at(node), lookup)) for _, node in wanted]
            session.add_proposals([(node, model.finish_forward(p)) for node, p in pending])
        return session.tree.select(self._plan.nodes), session, forwards

    def _expected_result(self, key: int, tree: DraftSlice, device: _Device) -> list[int] | None:
        """The result if the most probable leaf is accepted: its path and the most likely token behind it."""
        verified = self._verifier.sessions.get(key)
        if not self._plan.proactive or verified is None or not len(tree):
            return None
        path = _most_probable_path(tree)
        chat, generated = verified.stream.chat, verified.generated
        context = [*chat.prompt, *generated, *path]
        settled = len(chat.prompt) + len(generated)
        point = DraftRequest(key, context, settled, len(generated) + len(path), chat.sampling)
        model = self._edge.draft_model
        behind = model.finish_forward(model.start_forward(chat, point, device.lookup))
        if not behind.tokens:
            return None
        roots = [i for i, parent in enumerate(behind.parents) if parent == -1]
        return [*path, behind.tokens[max(roots, key=lambda i: behind.probabilities[i])]]

    def _receive(self, key: int, tree: DraftSlice) -> None:
        if key in self._verifier.sessions:
            self._arrived[key] = tree
            self._step()

    def _step(self) -> None:
        if self._stepping:
            return
        trees, self._arrived = self._arrived, {}
        stepped = self._verifier.step(trees)
        if stepped is None:
            return
        results, seconds = stepped
        self._stepping = True

        def finished() -> None:
            self.meters.server_seconds += seconds
            self.meters.steps += 1
            before = {key: (s.stream, len(s.generated)) for key, s in self._verifier.sessions.items()}
            continuing = self._verifier.update(results, self._on_tokens)
            # Trees for which the KV cache had no space wait for the next step.
            left = trees.keys() - {result.session for result in results}
            self._arrived = {key: trees[key] for key in left if key in self._verifier.sessions} | self._arrived
            for result in results:
                if result.tokens and result.session in before:
                    stream, at = before[result.session]
                    self._send_result(stream, at, result.tokens, result.session in continuing)
            self._stepping = False
            self._step()

        self.clock.call_later(seconds, finished)

    def _send_result(self, stream: Stream, at: int, tokens: Sequence[int], continues: bool) -> None:
        device = self._devices[stream.device]
        size = len(encode_frame([Commit(stream.key, at, list(tokens))]))
        self.meters.bytes_down += size

        def received() -> None:
            if not continues:
                return
            done_seconds = self._proactive_seconds(device, tokens)
            device.expected = None
            self._start_round(stream.key, done_seconds)

        device.downlink.send(size, received)

    def _proactive_seconds(self, device: _Device, result: Sequence[int]) -> float:
        """Seconds of the next round that are already done; negative while a useless forward has to end first."""
        if device.sent_at is None or not self._plan.proactive:
            return 0.0
        forward, waited = self._edge.device.forward_seconds, self.clock.now - device.sent_at
        drafted = min(waited, (self._plan.depth + 1) * forward)  # the first forward was for the token behind the leaf
        self.meters.device_seconds += drafted
        if device.expected == list(result):
            return max(0.0, drafted - forward)
        return -(-waited % forward) if drafted == waited else 0.0


def _most_probable_path(tree: DraftSlice) -> list[int]:
    """The token ids from the root to the most probable leaf."""
    leaves = set(range(len(tree))) - set(tree.parents)
    node = min(leaves, key=lambda i: tree.costs[i])
    path: list[int] = []
    while node >= 0:
        path.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return path


def _draft_message(key: int, session: DraftSession, tree: DraftSlice) -> list[Draft]:
    """The tree as it crosses the link; an empty frame if there is nothing to draft."""
    if tree == EMPTY_DRAFT:
        return []
    nodes = zip(tree.costs, tree.parents, strict=True)
    confidence = bytes(min(255, cost - (tree.costs[parent] if parent >= 0 else 0)) for cost, parent in nodes)
    parents = [parent + 1 for parent in tree.parents]
    return [Draft(key, session.tree.epoch, session.tree.at, 1, [*tree.tokens], parents, confidence)]
