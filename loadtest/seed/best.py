"""The best that the other ways can do at a load: their depths and sizes tried one by one, on the engine played back.

The cost curves are those measured in the same run, so what is best here is best on the real engine, near enough; only
that one is then run there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from loadtest.seed.beside import Beside, Speculation
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Load, System, run
from loadtest.seed.profiles import Device, Link
from loadtest.seed.rounds import Round, Rounds
from loadtest.seed.target import Target
from verifier.scheduling.step_costs import StepCosts

P = TypeVar("P")

SPECULATIONS = [
    Speculation(draft, looks, nodes)
    for draft in ("model", "lookup", "both")
    for looks in ((1, 2, 3, 4, 6) if draft != "lookup" else (1,))
    for nodes in ((looks, 2 * looks) if draft != "lookup" else (2, 4, 8))
]
ROUNDS = [Round(looks, nodes) for looks in (1, 2, 4, 8, 16) for nodes in sorted({looks, 2 * looks, 32}) if nodes <= 32]
SEED = 99


@dataclass(frozen=True)
class Plans:
    """What (b), the same with nothing but the draft model (m), and (c) run with."""

    speculation: Speculation
    model: Speculation
    rounds: Round

    def __str__(self) -> str:
        return f"(b) {self.speculation}; (m) {self.model}; (c) {self.rounds}"


def best_speculations(
    target: Target, steps: StepCosts, looks: StepCosts, drafts: Drafts, chats: Sequence[Chat], load: Load
) -> tuple[Speculation, Speculation]:
    """The highest throughput of datacenter speculation: of all, and of those that draft with the model alone."""
    rates = _rates(SPECULATIONS, lambda plan: Beside(Clock(), target, steps, looks, drafts, plan), chats, load)
    return _fastest(rates), _fastest({plan: rate for plan, rate in rates.items() if plan.draft == "model"})


def best_round(
    target: Target, steps: StepCosts, edge: tuple[Device, Link, Drafts], chats: Sequence[Chat], load: Load
) -> Round:
    """The highest throughput of SpecEdge's rounds."""
    return _fastest(_rates(ROUNDS, lambda plan: Rounds(Clock(), target, steps, edge, plan), chats, load))


def _rates(plans: Sequence[P], system: Callable[[P], System], chats: Sequence[Chat], load: Load) -> dict[P, float]:
    windows = {plan: run(system(plan), chats, load, SEED) for plan in plans}
    return {plan: window.tokens / window.seconds for plan, window in windows.items()}


def _fastest(rates: Mapping[P, float]) -> P:
    return max(rates, key=lambda plan: rates[plan])
