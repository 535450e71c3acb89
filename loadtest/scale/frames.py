"""A desktop's drafts as frames, as edge_agent/attach/connection.py sends them: later drafts share a frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_agent.attach.connection import COALESCE_SECONDS
from edgedraft.wire import Draft
from loadtest.seed.clock import Clock


class Frames:
    """`send` is given a frame's drafts."""

    def __init__(self, clock: Clock, send: Callable[[Sequence[Draft]], None]) -> None:
        self._clock, self._send = clock, send
        self._waiting: list[Draft] = []
        self._resting = False

    def put(self, draft: Draft) -> None:
        self._waiting.append(draft)
        if not self._resting:
            self._next()

    def _next(self) -> None:
        self._resting = bool(self._waiting)
        if self._waiting:
            drafts, self._waiting = self._waiting, []
            self._send(drafts)
            self._clock.after(COALESCE_SECONDS, self._next)
