"""For each session the history that penalties look at, brought up to the point at which a drafter is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_agent.drafters.interface import DraftRequest
from edgedraft.sampling.token_counts import TokenCounts, has_penalties


@dataclass(slots=True)
class _CommittedCounts:
    counts: TokenCounts
    num_tokens: int  # tokens of the settled text


class SessionTokenCounts:
    """Those of sessions without penalties are not kept."""

    def __init__(self) -> None:
        self._sessions: dict[int, _CommittedCounts] = {}

    @contextmanager
    def counts_at(self, point: DraftRequest) -> Iterator[TokenCounts | None]:
        """The history of a point's context, for as long as this lasts; None where it does not matter."""
        if not has_penalties(point.sampling):
            yield None
            return
        begins = len(point.context) - point.output_index
        known = self._sessions.get(point.session)
        if known is None:
            known = _CommittedCounts(TokenCounts(point.sampling, point.context[:begins]), begins)
            self._sessions[point.session] = known
        known.counts.extend(point.context[known.num_tokens : point.num_committed])
        known.num_tokens = point.num_committed
        with known.counts.with_path(point.context[point.num_committed :]) as history:
            yield history

    def remove(self, session: int) -> None:
        self._sessions.pop(session, None)
