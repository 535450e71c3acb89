"""Speculation in the datacenter: the draft model runs on the server, batched over all sessions, at the server's cost.

Each turn drafts a tree for every decoding session, `depth` draft forwards one after the other, and verifies the trees'
`nodes` most probable nodes in one step of the target. Prompts go through both models.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.tree import DraftSlice
from edgedraft.wire import Open
from loadtest.simulator.clock import Clock
from loadtest.simulator.draft_model import MemoizedDraftModel
from loadtest.simulator.load import OnTokens, Stream
from loadtest.simulator.measurement import Meters
from loadtest.simulator.systems.fixed_tree_verifier import FixedTreeVerifier, VerifiedSession
from loadtest.simulator.target import Target
from verifier.scheduling.step_costs import StepCosts

MODEL, LOOKUP, BOTH = "model", "lookup", "both"


@dataclass(frozen=True)
class SpeculationPlan:
    """`draft` is MODEL, LOOKUP (prompt lookup) or BOTH."""

    draft: str
    depth: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.draft}, {self.depth} deep, {self.nodes} nodes"


class DatacenterSpeculation:
    """`forwards` are the costs of a draft forward by rows."""

    def __init__(
        self,
        clock: Clock,
        target: Target,
        steps: StepCosts,
        forwards: StepCosts,
        draft_model: MemoizedDraftModel,
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
            key: DraftSession(_open_message(key, session, plan.nodes), 1)
            for key, session in self._verifier.sessions.items()
            if session.decoding
        }
        lookup = None if plan.draft == MODEL else self._lookup
        for _ in range(plan.depth):
            points = {key: wanted for key, session in drafts.items() if (wanted := session.next_request())}
            if not points:
                break
            if model:
                seconds += self._forwards.seconds(len(points))
            pending = {
                key: self._draft_model.start_forward(self._verifier.sessions[key].stream.chat, point, lookup, model)
                for key, (_, point) in points.items()
            }
            for key, (node, _) in points.items():
                drafts[key].add_proposal(node, self._draft_model.finish_forward(pending[key]))
        return {key: session.tree.select(plan.nodes) for key, session in drafts.items()}, seconds


def _open_message(key: int, session: VerifiedSession, window: int) -> Open:
    chat = session.stream.chat
    return Open(key, list(chat.prompt), chat.sampling, chat.max_tokens, session.generated, window)
