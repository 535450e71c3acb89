"""For each session the history that penalties look at, brought up to the point at which a drafter is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edge_agent.drafter import Point
from edgedraft.history import History, penalises


@dataclass(slots=True)
class _Known:
    history: History
    learnt: int  # tokens of the settled text


class Histories:
    """Those of sessions without penalties are not kept."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    @contextmanager
    def at(self, point: Point) -> Iterator[History | None]:
        """The history of a point's context, for as long as this lasts; None where it does not matter."""
        if not penalises(point.sampling):
            yield None
            return
        begins = len(point.context) - point.index
        known = self._known.get(point.session)
        if known is None:
            known = _Known(History(point.sampling, point.context[:begins]), begins)
            self._known[point.session] = known
        known.history.extend(point.context[known.learnt : point.settled])
        known.learnt = point.settled
        with known.history.ahead(point.context[point.settled :]) as history:
            yield history

    def forget(self, session: int) -> None:
        self._known.pop(session, None)
