"""Prompt lookup as a drafter: it copies from a session's own text (edgedraft/proposers/prompt_lookup.py)."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.drafters.interface import Guesses, Point
from edgedraft.proposers.prompt_lookup import TextIndex


class LookupDrafter:
    """The drafter over the sessions' own texts."""

    def __init__(self) -> None:
        self._texts: dict[int, TextIndex] = {}

    def open(self, session: int) -> None:
        self._texts[session] = TextIndex()

    def expand(self, points: Sequence[Point]) -> list[Guesses]:
        return [self._copy(point) for point in points]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self._texts.pop(session, None)

    def _copy(self, point: Point) -> Guesses:
        known = self._texts[point.session]
        known.learn(point.context, point.settled, output_begins=len(point.context) - point.index)
        tokens, probabilities = known.continuation(point.context)
        return Guesses(tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(probabilities))
