"""What the client predicted of the output as a drafter (edgedraft/proposers/prediction.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edgedraft.proposers.prediction import PredictionCursor


class PredictionDrafter:
    """Guesses nothing in sessions without a prediction."""

    def __init__(self) -> None:
        self._cursors: dict[int, PredictionCursor] = {}

    def open(self, session: int) -> None:
        self._cursors.pop(session, None)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [self._proposal(point) if point.prediction else NO_PROPOSAL for point in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._cursors.pop(session, None)

    def _proposal(self, point: DraftRequest) -> Proposal:
        cursor = self._cursors.get(point.session)
        if cursor is None:
            cursor = self._cursors[point.session] = PredictionCursor.from_prediction(point.prediction)
        begins = len(point.context) - point.output_index
        cursor.advance(point.context[begins + cursor.num_output : point.num_committed])
        tokens, chances = cursor.advanced_copy(point.context[point.num_committed :]).propose()
        return Proposal(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(chances))
