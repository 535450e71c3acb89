"""What the scheduler learns from every frame of drafts and every commit: how drafts grow, what nodes are worth.

It keeps the draft-related fields of each SessionState and feeds the sources' DraftGrowth and Calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from edgedraft.tree import DraftSlice
from edgedraft.wire import Draft
from verifier.engine.interface import StepResult
from verifier.scheduling.calibration import Calibrations
from verifier.scheduling.draft_growth import NO_GAINS, DraftGrowth, Values, draft_values
from verifier.scheduling.draft_selection import DraftSelector
from verifier.scheduling.session_state import SessionState

PRICE_WEIGHT = 0.1  # of the newest step in the price of a row
SAMPLED_COMMITS = 4  # the draft after one of so many commits of a session is measured frame by frame
MAX_COMMIT_TIMES = 32  # per session


class DraftTracker:
    """`usual_nodes` is the number of draft nodes in recent steps without prompts, a running mean.

    `row_price` is the tokens that the best node which recent steps had no room for was expected to add, a running mean.
    """

    def __init__(self, calibrations: Calibrations, selector: DraftSelector) -> None:
        self.usual_nodes = 0.0
        self.row_price = 0.0
        self._calibrations = calibrations
        self._selector = selector

    def value(self, session: SessionState) -> float:
        """The tokens that the session's draft is expected to add to its next step, less the price of its rows."""
        _, probabilities = self._selector.evaluate(session)
        return sum(max(0.0, probability - self.row_price) for probability in probabilities)

    def _measure(self, session: SessionState) -> tuple[int, Values]:
        """The draft's number of nodes, and its value at PRICES."""
        _, probabilities = self._selector.evaluate(session)
        return len(session.tree), draft_values(probabilities)

    def record_arrival(self, session: SessionState, message: Draft, is_new_epoch: bool, now: float) -> None:
        """Learn from a draft that was added to the session's tree at `now`."""
        self._record_times(session, message, is_new_epoch, now)
        if session.is_exhausted:
            session.is_exhausted = False
            self._record(session, partial(DraftGrowth.record_survival, survived=not is_new_epoch))
        session.last_draft_at, session.evaluated_draft = now, None
        missing = len(session.tree.committed) - message.at if is_new_epoch else session.num_missing
        for _ in range(missing - session.tree.surplus):
            self._record(session, partial(DraftGrowth.record_kept, kept=True))
        if missing and session.tree.awaits_epoch and (is_new_epoch or not session.awaited_epoch):
            self._record(session, partial(DraftGrowth.record_kept, kept=False))
        session.num_missing, session.awaited_epoch = session.tree.surplus, session.tree.awaits_epoch
        session.had_draft = session.has_draft
        if not session.num_commits % SAMPLED_COMMITS and session.has_draft:
            nodes, values = self._measure(session)
            if session.measured is not None or not missing:
                before, earlier = session.measured or (0, NO_GAINS)
                gains = values - earlier
                self._record(
                    session, partial(DraftGrowth.record_frame, nodes=before, added=nodes - before, gains=gains)
                )
            session.measured = nodes, values

    def _record_times(self, session: SessionState, message: Draft, is_new_epoch: bool, now: float) -> None:
        if is_new_epoch:
            if (committed_at := session.commit_times.get(message.at)) is not None:
                self._record(session, partial(DraftGrowth.record_delay, seconds=now - committed_at))
        elif session.last_draft_at is not None and session.committed_at is not None:
            if session.last_draft_at > session.committed_at:
                self._record(session, partial(DraftGrowth.record_interval, seconds=now - session.last_draft_at))
            elif not session.tree.awaits_epoch:
                self._record(session, partial(DraftGrowth.record_resume_delay, seconds=now - session.committed_at))

    def record_commit(self, session: SessionState, result: StepResult, draft: DraftSlice, now: float) -> None:
        """Learn from a step that verified `draft`, after its tokens were committed to the session's tree."""
        session.num_commits, session.evaluated_draft, session.measured = session.num_commits + 1, None, None
        if not session.num_commits % SAMPLED_COMMITS and session.has_draft:
            session.measured = self._measure(session)
        if result.nodes:
            self._calibrations.record_verification(session.draft_source, draft, result.tokens)
        times = session.commit_times
        times[len(session.tree.committed)] = now
        if len(times) > MAX_COMMIT_TIMES:
            del times[next(iter(times))]
        if session.had_draft:
            session.is_exhausted = not session.has_draft and not session.tree.awaits_epoch
        session.num_missing, session.had_draft = session.tree.surplus, session.has_draft
        session.awaited_epoch = session.tree.awaits_epoch

    def record_selection(
        self, probabilities: Mapping[int, Sequence[float]], nodes: Mapping[int, Sequence[int]], beside_prompts: bool
    ) -> None:
        """Learn which `nodes` of each session a step had room for, of those with these path probabilities."""
        best_left = max(
            (max(_without(row, nodes.get(key, ())), default=0.0) for key, row in probabilities.items()), default=0.0
        )
        self.row_price += PRICE_WEIGHT * (best_left - self.row_price)
        if not beside_prompts:
            self.usual_nodes += PRICE_WEIGHT * (sum(map(len, nodes.values())) - self.usual_nodes)

    def _record(self, session: SessionState, record: Callable[[DraftGrowth], None]) -> None:
        self._calibrations.record_growth(session.tree_agent, record)


def _without(values: Sequence[float], indices: Sequence[int]) -> list[float]:
    """The values but those at `indices`."""
    left_out = set(indices)
    return [value for i, value in enumerate(values) if i not in left_out]
