"""Datacenter speculation: the draft model runs on the server, for all sessions at once, and the server pays for it.

Each turn drafts a tree for every session that decodes, `looks` forwards of the draft model one after the other, and
checks the trees' `nodes` most probable nodes in one step of the target. Prompts go through both models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.drafters.prompt_lookup import PromptLookupDrafter
from edge_agent.drafting.draft_session import DraftSession
from edgedraft.tree import DraftSlice
from edgedraft.wire import Open
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fixed import FixedServer
from loadtest.seed.fleet import Meters, Stream
from loadtest.seed.target import Target
from verifier.scheduling.step_costs import StepCosts


@dataclass(frozen=True)
class Speculation:
    """`draft` is of drafts.KINDS: the model, prompt lookup, or both."""

    draft: str
    looks: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.draft}, {self.looks} deep, {self.nodes} nodes"


class Beside:
    """`looks` tells what a forward of the draft model takes by its rows."""

    def __init__(
        self, clock: Clock, target: Target, steps: StepCosts, looks: StepCosts, drafts: Drafts, plan: Speculation
    ) -> None:
        self.meters = Meters()
        self.clock = self._clock = clock
        self._looks, self._drafts, self._plan = looks, drafts, plan
        self._server = FixedServer(target, steps, self.meters)
        self._lookup = PromptLookupDrafter()
        self._turning = False
        self._prompts: list[int] = []  # lengths of prompts that the draft model has not seen
        self._committed: Callable[[Stream, Sequence[int]], None] = lambda stream, tokens: None

    def serve(self, committed: Callable[[Stream, Sequence[int]], None]) -> None:
        self._committed = committed

    def stop(self) -> None:
        self._server.clear()

    def begin(self, stream: Stream) -> None:
        self._server.open(stream)
        self._lookup.open(stream.key)
        if not stream.known:
            self._prompts.append(len(stream.chat.prompt))
        if not self._turning:
            self._turning = True
            self._clock.after(0.0, self._turn)

    def _turn(self) -> None:
        trees, drafting = self._draft()
        made = self._server.step(trees)
        self._turning = made is not None
        if made is None:
            return
        progress, checking = made

        def stepped() -> None:
            self.meters.server += drafting + checking
            self._server.apply(progress, self._committed)
            self._turn()

        self._clock.after(drafting + checking, stepped)

    def _draft(self) -> tuple[dict[int, DraftSlice], float]:
        """A tree for every session that decodes, and the seconds of drafting them all."""
        plan, model = self._plan, self._plan.draft != "lookup"
        seconds = sum(self._looks.seconds(rows) for rows in self._prompts) if model else 0.0
        self._prompts.clear()
        grown = {
            key: DraftSession(
                Open(key, list(s.stream.chat.prompt), s.stream.chat.sampling, s.stream.chat.most, s.said, plan.nodes), 1
            )
            for key, s in self._server.sessions.items()
            if s.under_way
        }
        for _ in range(plan.looks):
            asked = {key: wanted for key, session in grown.items() if (wanted := session.next_request())}
            if not asked:
                break
            if model:
                seconds += self._looks.seconds(len(asked))
            lookup = None if plan.draft == "model" else self._lookup
            looks = {
                key: self._drafts.ask(self._server.sessions[key].stream.chat, point, lookup, model)
                for key, (_, point) in asked.items()
            }
            for key, (node, _) in asked.items():
                grown[key].add_proposal(node, self._drafts.answer(looks[key]))
        return {key: session.tree.select(plan.nodes) for key, session in grown.items()}, seconds
