"""The scheduler's state of one session: its text, its draft tree, its agent and its latency budget.

It holds data only; decisions are made by scheduler.py, draft_selection.py and draft_wait.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgedraft.proposers.prediction import PredictionCursor
from edgedraft.proposers.prompt_lookup import NgramIndex
from edgedraft.tree import DraftSlice, DraftTree
from edgedraft.wire import MAX_WINDOW
from verifier.engine.interface import Request
from verifier.scheduling.draft_growth import Values
from verifier.scheduling.fair_shares import NO_SHARE, Share
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
    share: Share = NO_SHARE
    expected_tokens: float = 0.0  # that its share was charged when it started
    tree_agent: str = field(init=False)  # the agent whose nodes the tree holds, even after it has detached
    num_uncomputed: int = 0  # tokens of the text that the engine has not computed; 1 while the session decodes
    num_cached_tokens: int = 0  # found in the prefix cache, until the first commit reports them
    compute_seconds: float = 0.0  # of the steps since the last commit
    num_tokens_at_start: int = 0  # of the text that the prefix cache held when the session started
    draft_source: str = ""  # where the nodes selected last come from: a name in Calibrations
    verifier_drafted: bool = False  # those nodes come from a prediction or from prompt lookup, not from an agent
    commit_times: dict[int, float] = field(default_factory=dict)  # of the last commits, by output tokens after them
    num_missing: int = 0  # committed tokens whose draft nodes have not arrived
    is_exhausted: bool = False  # a commit left no node without contradicting the draft, and nothing has come since
    awaited_epoch: bool = True  # as the tree told then
    had_draft: bool = False  # there were nodes to verify when the last draft or commit had been added
    num_commits: int = 0
    # The draft's nodes and its value at several prices (draft_growth.py), where its growth is measured.
    measured: tuple[int, Values] | None = None
    window: int = MAX_WINDOW  # uncommitted nodes that the agent may hold
    last_draft_at: float | None = None  # when a draft last arrived
    # The draft that may be verified next and its nodes' path probabilities; None after the tree has changed.
    evaluated_draft: tuple[DraftSlice, list[float]] | None = None
    wait_started_at: float | None = None  # of the current wait for a draft

    def __post_init__(self) -> None:
        self.tree_agent = self.agent

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def tokens_taken(self) -> int:
        """Tokens of the text that the engine has computed for this session."""
        return len(self.token_ids) - self.num_tokens_at_start - self.num_uncomputed

    def budget_at(self, now: float) -> LatencyBudget:
        """The latency budget at `now`, the wait that is under way included."""
        if self.wait_started_at is None:
            return self.latency_budget
        return self.latency_budget.after_wait(max(0.0, now - self.wait_started_at))

    def missing_since(self) -> tuple[float | None, int]:
        """When the first token was committed whose draft node is missing, and how many commits' tokens came later."""
        length = len(self.tree.committed)
        for after, at in self.commit_times.items():
            if after > length - self.tree.surplus:
                return at, length - after
        return self.committed_at, 0

    @property
    def committed_at(self) -> float | None:
        """The time of the last commit."""
        return next(reversed(self.commit_times.values()), None)

    @property
    def has_draft(self) -> bool:
        """Whether the tree holds nodes below the committed text."""
        return len(self.tree) > 0 and not self.tree.surplus
