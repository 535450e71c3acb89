"""For each session the history that penalties look at, brought up to the point at which a drafter is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_agent.drafters.interface import Point
from edgedraft.sampling.token_counts import TokenCounts, has_penalties


@dataclass(slots=True)
class _Known:
    history: TokenCounts
    learnt: int  # tokens of the settled text


class Histories:
    """Those of sessions without penalties are not kept."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    @contextmanager
    def at(self, point: Point) -> Iterator[TokenCounts | None]:
        """The history of a point's context, for as long as this lasts; None where it does not matter."""
        if not has_penalties(point.sampling):
            yield None
            return
        begins = len(point.context) - point.index
        known = self._known.get(point.session)
        if known is None:
            known = _Known(TokenCounts(point.sampling, point.context[:begins]), begins)
            self._known[point.session] = known
        known.history.extend(point.context[known.learnt : point.settled])
        known.learnt = point.settled
        with known.history.with_path(point.context[point.settled :]) as history:
            yield history

    def forget(self, session: int) -> None:
        self._known.pop(session, None)
