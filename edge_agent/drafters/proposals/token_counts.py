"""Per session, the token counts that penalties need, brought up to the position of a draft request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_agent.drafters.interface import DraftRequest
from edgedraft.sampling.token_counts import TokenCounts, has_penalties


@dataclass(slots=True)
class _CommittedCounts:
    counts: TokenCounts
    num_tokens: int  # of prompt and committed output, those that are counted already


class SessionTokenCounts:
    """Token counts by session; sessions without penalties take no memory."""

    def __init__(self) -> None:
        self._sessions: dict[int, _CommittedCounts] = {}

    @contextmanager
    def counts_at(self, request: DraftRequest) -> Iterator[TokenCounts | None]:
        """Context manager: the counts of a request's whole context, or None when its sampling has no penalties."""
        if not has_penalties(request.sampling):
            yield None
            return
        output_start = len(request.context) - request.output_index
        known = self._sessions.get(request.session)
        if known is None:
            known = _CommittedCounts(TokenCounts(request.sampling, request.context[:output_start]), output_start)
            self._sessions[request.session] = known
        known.counts.extend(request.context[known.num_tokens : request.num_committed])
        known.num_tokens = request.num_committed
        with known.counts.with_path(request.context[request.num_committed :]) as counts:
            yield counts

    def remove(self, session: int) -> None:
        self._sessions.pop(session, None)
