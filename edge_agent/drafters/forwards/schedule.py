"""Which rows a draft forward has: those of every session's first request first, within a row limit and the KV cache.

Long contexts are prefilled in chunks whose size keeps a forward short, so that other sessions need not wait. When the
KV cache is full, the least recently drafted sessions are evicted and recomputed at their next request. This module runs
no model: the drafters of torch (model.py) and ONNX Runtime (edge_agent/onnx/drafter.py) do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Generic

from edge_agent.drafters.forwards.session_cache import SessionCache, Slots
from edge_agent.drafters.interface import INCOMPLETE, NO_PROPOSAL, DraftRequest, Proposal
from edgedraft.runtime.blocks import OutOfBlocks, num_blocks
from edgedraft.wire import MAX_WINDOW

MIN_ROWS, MAX_ROWS = 16, 1024  # bounds of the row limit of one forward
TARGET_FORWARD_SECONDS = 0.06  # of a forward at its row limit
MAX_KEPT_ROWS = 2 * MAX_WINDOW  # of one session; beyond them only those on the requested paths are kept


class ForwardSchedule(Generic[Slots]):
    """The sessions' caches, and the choice of the rows of each forward."""

    def __init__(
        self, new_slots: Callable[[], Slots], num_kv_blocks: int, max_context: int, max_scores: int | None = None
    ) -> None:
        """`new_slots` makes a session's slots in a KV cache of `num_kv_blocks` blocks, which nothing else uses.

        Contexts longer than `max_context` cannot be drafted. A forward in which all rows are multiplied with the keys
        of all sessions has a limit of rows * keys, `max_scores`.
        """
        self.max_context = max_context
        self.max_rows = 4 * MIN_ROWS
        self.sessions: dict[int, SessionCache[Slots]] = {}
        self._new_slots, self._num_kv_blocks, self._max_scores = new_slots, num_kv_blocks, max_scores
        self._step = 0

    def open(self, session: int) -> None:
        """Begin a session, or begin it again."""
        self.close(session)
        self.sessions[session] = SessionCache(self._new_slots())

    def close(self, session: int) -> None:
        """Free a session's slots; a no-op when it is not open."""
        cache = self.sessions.pop(session, None)
        if cache is not None:
            cache.clear()

    def begin(
        self, requests: Sequence[DraftRequest], can_draft: Callable[[DraftRequest], bool]
    ) -> tuple[list[Proposal], list[SessionCache[Slots]]]:
        """Schedule a forward; returns a first proposal per request, and the sessions that have rows in the forward.

        The proposals are NO_PROPOSAL for what cannot be drafted, INCOMPLETE for everything else.
        """
        fits = [0 < len(request.context) <= self.max_context and can_draft(request) for request in requests]
        scheduled = self._schedule(requests, [i for i, fitting in enumerate(fits) if fitting])
        return [INCOMPLETE if fitting else NO_PROPOSAL for fitting in fits], scheduled

    def adapt_max_rows(self, rows: int, seconds: float) -> None:
        """Fit the row limit of a forward to TARGET_FORWARD_SECONDS; a forward below the limit changes nothing."""
        if rows < self.max_rows:
            return
        if seconds > 1.5 * TARGET_FORWARD_SECONDS:
            self.max_rows = max(MIN_ROWS, self.max_rows // 2)
        elif seconds < 0.6 * TARGET_FORWARD_SECONDS:
            self.max_rows = min(MAX_ROWS, self.max_rows * 2)

    def _schedule(self, requests: Sequence[DraftRequest], indices: Sequence[int]) -> list[SessionCache[Slots]]:
        """Schedule the rows of this forward; returns the sessions that have some.

        Each session's first request comes before the others, so that nobody waits for another's branches: those with
        the fewest rows first, then the least recently drafted. The others take what the row limit leaves.
        """
        self._step += 1
        by_session: dict[int, list[int]] = {}
        for i in indices:
            by_session.setdefault(requests[i].session, []).append(i)
        order: list[tuple[int, int, int]] = []
        for session, own in by_session.items():
            cache, first = self.sessions[session], requests[own[0]]
            cache.follow(first.context, first.num_committed)
            if cache.num_rows > MAX_KEPT_ROWS:
                cache.keep_paths(requests[i].context for i in own)
            order.append((cache.num_missing(first.context), cache.last_step, own[0]))
        scheduled: dict[int, SessionCache[Slots]] = {}
        rows_left = self.max_rows
        for i in [i for _, _, i in sorted(order)]:
            session, context = requests[i].session, requests[i].context
            cache = self.sessions[session]
            if not self._fits(cache, context, scheduled.values()):
                cache.keep_paths([context])
            if rows := self._schedule_request(i, requests[i], rows_left, scheduled.values()):
                scheduled[session] = cache
                cache.last_step = self._step
                rows_left -= rows
        for i in indices:
            session = requests[i].session
            if session in scheduled and i != by_session[session][0]:
                rows_left -= self._schedule_request(i, requests[i], rows_left, scheduled.values())
        return list(scheduled.values())

    def _schedule_request(
        self, index: int, request: DraftRequest, rows_left: int, scheduled: Iterable[SessionCache[Slots]]
    ) -> int:
        """Schedule a request, or the part of it that `rows_left` rows allow; returns the rows that it adds."""
        cache = self.sessions[request.session]
        if not self._fits(cache, request.context, scheduled):
            return 0
        # Evicting others never changes this session, but an earlier request may have evicted this one.
        missing = cache.num_missing(request.context)
        rows = min(missing, rows_left, self._rows_within_scores(cache, self.max_rows - rows_left, scheduled))
        if missing and rows <= 0:
            return 0
        self._reserve(cache, rows, scheduled)
        cache.schedule(index, request.context, rows)
        return rows

    def _rows_within_scores(
        self, cache: SessionCache[Slots], num_rows: int, scheduled: Iterable[SessionCache[Slots]]
    ) -> int:
        """The rows of a session that the limit of scores allows beside `num_rows` scheduled ones; alone one or more."""
        if self._max_scores is None:
            return self.max_rows
        num_keys = cache.num_slots + sum(other.num_slots for other in scheduled if other is not cache)
        # The largest n with (num_rows + n) * (num_keys + n) <= limit.
        total, difference = num_rows + num_keys, num_keys - num_rows
        n = (math.isqrt(difference * difference + 4 * self._max_scores) - total) // 2
        return max(n, 0 if num_rows else 1)

    def _fits(
        self, cache: SessionCache[Slots], context: Sequence[int], scheduled: Iterable[SessionCache[Slots]]
    ) -> bool:
        """Whether all rows of a context fit into the KV cache beside the sessions scheduled already."""
        held = sum(num_blocks(other.num_slots) for other in scheduled if other is not cache)
        needed = num_blocks(cache.num_slots + cache.num_missing(context))
        return held + needed <= self._num_kv_blocks

    def _reserve(self, cache: SessionCache[Slots], rows: int, scheduled: Iterable[SessionCache[Slots]]) -> None:
        """Reserve slots for `rows` rows that fit, evicting the least recently drafted sessions."""
        in_use = [cache, *scheduled]
        while True:
            try:
                cache.reserve_slots(rows)
                return
            except OutOfBlocks:
                evictable = [c for c in self.sessions.values() if c.holds_blocks and c not in in_use]
                min(evictable, key=lambda other: other.last_step).clear()
