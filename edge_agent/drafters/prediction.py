"""What the client predicted of the output as a drafter (edgedraft/proposers/prediction.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import NOTHING, Guesses, Point
from edgedraft.proposers.prediction import PredictionCursor


class PredictionDrafter:
    """Guesses nothing in sessions without a prediction."""

    def __init__(self) -> None:
        self._cursors: dict[int, PredictionCursor] = {}

    def open(self, session: int) -> None:
        self._cursors.pop(session, None)

    def expand(self, points: Sequence[Point]) -> list[Guesses]:
        return [self._continuation(point) if point.prediction else NOTHING for point in points]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._cursors.pop(session, None)

    def _continuation(self, point: Point) -> Guesses:
        cursor = self._cursors.get(point.session)
        if cursor is None:
            cursor = self._cursors[point.session] = PredictionCursor.over(point.prediction)
        begins = len(point.context) - point.index
        cursor.follow(point.context[begins + cursor.followed : point.settled])
        tokens, chances = cursor.ahead(point.context[point.settled :]).continuation()
        return Guesses(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(chances))
