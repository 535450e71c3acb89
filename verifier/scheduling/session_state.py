"""What the scheduler knows of one session: its text, its drafts, whose they are, and how it fares with them.

It decides nothing: that is scheduler.py's, by policy.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import TextIndex
from edgedraft.tree import DraftTree
from verifier.engine.interface import Request
from verifier.scheduling.policy import LatencyBudget


@dataclass(slots=True)
class Session:
    """Opened and running, or waiting for room. Times are the scheduler's, in seconds."""

    request: Request
    tree: DraftTree
    text: list[int]  # prompt and output
    prompt: int
    agent: str  # whose drafts are expected; "" is nobody's
    latency_budget: LatencyBudget
    index: TextIndex | None
    prediction: PredictionCursor | None
    author: str = field(init=False)  # whose nodes the tree holds, also after that agent has left
    num_uncomputed: int = 0
    cached: int = 0
    seconds: float = 0.0  # of steps since its last commit: those that took in its prompt
    checked: str = ""  # whose nodes are in the step that runs
    self_drafted: bool = False  # they are no agent's
    acceptance: float = 0.5  # of the best guess, a running mean
    missed_at: float | None = None  # since when there has been nothing to check
    draft_delay: float | None = None  # from a miss to the next draft, a running mean
    drafted_at: float | None = None  # when nodes came last, since the last commit
    interval: float | None = None  # between two drafts that follow each other, a running mean
    waiting_since: float | None = None
    patience: float = 0.0
    lapsed: bool = False  # patience ended without a draft; not waited for again until one arrives

    @property
    def has_draft(self) -> bool:
        return len(self.tree) > 0 and not self.tree.surplus

    def __post_init__(self) -> None:
        self.author = self.agent
