"""The client's predicted output (OpenAI's `prediction` parameter) as a drafter (edgedraft/proposers/prediction.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edgedraft.proposers.prediction import PredictionCursor


class PredictionDrafter:
    """Proposes nothing in sessions without a prediction."""

    def __init__(self) -> None:
        self._cursors: dict[int, PredictionCursor] = {}

    def open(self, session: int) -> None:
        self._cursors.pop(session, None)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(request) if request.prediction else NO_PROPOSAL for request in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._cursors.pop(session, None)

    def _proposal(self, request: DraftRequest) -> Proposal:
        cursor = self._cursors.get(request.session)
        if cursor is None:
            cursor = self._cursors[request.session] = PredictionCursor.from_prediction(request.prediction)
        output_start = len(request.context) - request.output_index
        cursor.advance(request.context[output_start + cursor.num_output : request.num_committed])
        tokens, chances = cursor.advanced_copy(request.context[request.num_committed :]).propose()
        return Proposal(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(chances))
