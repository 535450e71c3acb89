"""The best that the other ways can do at a load: their depths and sizes tried one by one, on the engine played back.

The cost curves are those measured in the same run, so what is best here is best on the real engine, near enough; only
that one is then run there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from loadtest.seed.beside import Beside, Speculation
from loadtest.seed.chats import Chat
from loadtest.seed.clock import Clock
from loadtest.seed.drafts import Drafts
from loadtest.seed.fleet import Load, System, run
from loadtest.seed.profiles import Device, Link
from loadtest.seed.rounds import Round, Rounds
from loadtest.seed.target import Target
from verifier.costs import StepCosts

P = TypeVar("P")

SPECULATIONS = [
    Speculation(draft, looks, nodes)
    for draft in ("model", "lookup", "both")
    for looks in ((1, 2, 3, 4, 6) if draft != "lookup" else (1,))
    for nodes in ((looks, 2 * looks) if draft != "lookup" else (2, 4, 8))
]
ROUNDS = [Round(looks, nodes) for looks in (1, 2, 4, 8, 16) for nodes in sorted({looks, 2 * looks, 32}) if nodes <= 32]
SEED = 99


def best_speculation(
    target: Target, steps: StepCosts, looks: StepCosts, drafts: Drafts, chats: Sequence[Chat], load: Load
) -> Speculation:
    """The highest throughput of datacenter speculation."""
    return _best(SPECULATIONS, lambda plan: Beside(Clock(), target, steps, looks, drafts, plan), chats, load)


def best_round(
    target: Target, steps: StepCosts, edge: tuple[Device, Link, Drafts], chats: Sequence[Chat], load: Load
) -> Round:
    """The highest throughput of SpecEdge's rounds."""
    return _best(ROUNDS, lambda plan: Rounds(Clock(), target, steps, edge, plan), chats, load)


def _best(plans: Sequence[P], system: Callable[[P], System], chats: Sequence[Chat], load: Load) -> P:
    def rate(plan: P) -> float:
        window = run(system(plan), chats, load, SEED)
        return window.tokens / window.seconds

    return max(plans, key=rate)
