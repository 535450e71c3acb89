"""Speculation in the datacenter: the draft model runs on the server, batched over all sessions, at the server's cost.

Each turn drafts a tree for every decoding session, `depth` draft forwards one after the other, and verifies the trees'
`nodes` most probable nodes in one step of the target. Prompts go through both models.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.drafters.lookup.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DEFAULT_MIN_PATH, DraftSession
from edgedraft.tree import DraftSlice
from edgedraft.wire import MAX_WINDOW, Open
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import DraftModel
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.systems.fixed_tree_verifier import FixedTreeVerifier, VerifiedSession
from loadtest.simulator.target import Target
from verifier.scheduling.step_costs import StepCosts

MODEL, LOOKUP, BOTH = "model", "lookup", "both"
WINDOW_PER_NODE = 4  # drafted nodes, of which the most probable ones are verified


@dataclass(frozen=True)
class SpeculationPlan:
    """`draft` is MODEL, LOOKUP (prompt lookup) or BOTH; a draft forward takes `width` positions of each tree.

    Nodes whose path is less probable than `min_path` are neither drafted further nor verified.
    """

    draft: str
    depth: int
    nodes: int
    width: int = 1
    min_path: float = DEFAULT_MIN_PATH

    def __str__(self) -> str:
        shape = f"{self.depth} deep, {self.nodes} nodes, {self.width} wide"
        return f"{self.draft}, {shape}, from {self.min_path:g} on"


class DatacenterSpeculation:
    """`forwards` are the costs of a draft forward by rows."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        forwards: StepCosts,
        draft_model: DraftModel,
        plan: SpeculationPlan,
    ) -> None:
        self.meters = Meters()
        self.clock = clock
        self._forwards, self._draft_model, self._plan = forwards, draft_model, plan
        self._verifier = FixedTreeVerifier(target, steps, self.meters)
        self._lookup = PromptLookupDrafter()
        self._running = False
        self._new_prompts: list[int] = []  # lengths of prompts that the draft model has not computed
        self._on_tokens: OnTokens = lambda stream, tokens: None

    def subscribe(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens

    def stop(self) -> None:
        self._verifier.clear()

    def submit(self, stream: Stream) -> None:
        self._verifier.open(stream)
        self._lookup.open(stream.key)
        if not stream.num_prior:
            self._new_prompts.append(len(stream.chat.prompt))
        if not self._running:
            self._running = True
            self.clock.call_later(0.0, self._step)

    def _step(self) -> None:
        trees, drafting = self._draft()
        stepped = self._verifier.step(trees)
        self._running = stepped is not None
        if stepped is None:
            return
        results, verifying = stepped

        def finished() -> None:
            self.meters.server_seconds += drafting + verifying
            self.meters.draft_seconds += drafting
            self.meters.steps += 1
            self._verifier.update(results, self._on_tokens)
            self._step()

        self.clock.call_later(drafting + verifying, finished)

    def _draft(self) -> tuple[dict[int, DraftSlice], float]:
        """A tree for every decoding session, and the seconds of drafting them all."""
        plan, model = self._plan, self._plan.draft != LOOKUP
        seconds = sum(self._forwards.seconds(rows) for rows in self._new_prompts) if model else 0.0
        self._new_prompts.clear()
        drafts = {
            key: DraftSession(_open_message(key, session, min(MAX_WINDOW, WINDOW_PER_NODE * plan.nodes)), 1)
            for key, session in self._verifier.sessions.items()
            if session.decoding
        }
        for draft in drafts.values():
            draft.min_path = plan.min_path
        lookup = None if plan.draft == MODEL else self._lookup
        for _ in range(plan.depth):
            points = {
                key: [(node, session.request_at(node)) for _, node in session.candidates(plan.width)]
                for key, session in drafts.items()
            }
            count = sum(map(len, points.values()))
            if not count:
                break
            if model:
                seconds += self._forwards.seconds(count)
            for key, wanted in points.items():
                chat = self._verifier.sessions[key].stream.chat
                pending = [
                    (node, self._draft_model.start_forward(chat, point, lookup, model)) for node, point in wanted
                ]
                drafts[key].add_proposals([(node, self._draft_model.finish_forward(p)) for node, p in pending])
        return {key: session.tree.select(plan.nodes) for key, session in drafts.items()}, seconds


def _open_message(key: int, session: VerifiedSession, window: int) -> Open:
    chat = session.stream.chat
    return Open(key, list(chat.prompt), chat.sampling, chat.max_tokens, session.generated, window)
