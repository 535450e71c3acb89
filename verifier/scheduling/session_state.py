"""The scheduler's state of one session: its text, its draft tree, its agent and its latency budget.

It holds data only; decisions are made by scheduler.py, draft_selection.py and draft_wait.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import NgramIndex
from edgedraft.tree import DraftTree
from verifier.engine.interface import Request
from verifier.scheduling.policy import LatencyBudget


@dataclass(slots=True)
class SessionState:
    """A session that runs or waits for admission. Times are seconds of the scheduler's clock."""

    request: Request
    tree: DraftTree
    token_ids: list[int]  # prompt and output
    num_prompt_tokens: int
    agent: str  # the attached agent; "" if there is none
    latency_budget: LatencyBudget
    lookup_index: NgramIndex | None  # None where prompt lookup is off
    prediction: PredictionCursor | None
    tree_agent: str = field(init=False)  # the agent whose nodes the tree holds, even after it has detached
    num_uncomputed: int = 0  # tokens of the text that the engine has not computed; 1 while the session decodes
    num_cached_tokens: int = 0  # found in the prefix cache, until the first commit reports them
    compute_seconds: float = 0.0  # of the steps since the last commit
    draft_source: str = ""  # where the nodes selected last come from: a name in Calibrations
    verifier_drafted: bool = False  # those nodes come from a prediction or from prompt lookup, not from an agent
    acceptance_rate: float = 0.5  # of the agent's most likely draft tokens, a running mean
    without_draft_since: float | None = None  # None while there are nodes to verify
    draft_delay: float | None = None  # from a commit that leaves no draft to the next draft, a running mean
    last_draft_at: float | None = None  # when nodes last arrived; None if none did since the last commit
    draft_interval: float | None = None  # between consecutive drafts, a running mean
    wait_started_at: float | None = None  # of the current wait for a draft
    max_draft_wait: float = 0.0  # seconds, of the current wait
    wait_expired: bool = False  # the last wait ended without a draft; no further wait until one arrives

    def __post_init__(self) -> None:
        self.tree_agent = self.agent

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def has_draft(self) -> bool:
        """Whether the tree holds nodes below the committed text."""
        return len(self.tree) > 0 and not self.tree.surplus
