"""Watches how long the event loop is held: nothing else of the process goes on meanwhile (invariant 6)."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from contextlib import suppress

from prometheus_client import CollectorRegistry, Gauge, Histogram

log = logging.getLogger(__name__)

ALLOWED = 0.02  # seconds that the loop may be held
BEAT = 0.005  # seconds between two looks; a hold is measured by up to so much too little
LISTED = 0.001  # shorter holds are not counted
WINDOW = 60.0  # seconds over which the longest is kept
QUIET = 10.0  # seconds between two warnings


class EventLoopWatch:
    """Measures by the lateness of a timer, but no more than the loop's thread computed: other processes count not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._holds = Histogram(
            "edgedraft_gateway_event_loop_hold_seconds",
            "How long the event loop was held, for 1 ms or more",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
            registry=registry,
        )
        longest = Gauge(
            "edgedraft_gateway_event_loop_held_seconds",
            "The longest that the event loop was held within the last minute",
            registry=registry,
        )
        longest.set_function(self.longest)
        self._recent: deque[tuple[float, float]] = deque()  # (when, seconds): each shorter than those before
        self._beat_at = time.monotonic()
        self._seen = ""  # what held the loop when the thread looked
        self._warned_at = float("-inf")
        self._ended = threading.Event()

    def longest(self) -> float:
        """Seconds, the longest hold of the last WINDOW. May be called by any thread."""
        since = time.monotonic() - WINDOW
        return max((seconds for when, seconds in list(self._recent) if when >= since), default=0.0)

    async def run(self) -> None:
        """Watches the loop that runs it, until it is cancelled."""
        loop, thread_id = asyncio.get_running_loop(), threading.get_ident()
        thread = threading.Thread(target=self._look, args=(loop, thread_id), name="event loop watch", daemon=True)
        self._beat_at = time.monotonic()
        thread.start()
        self._begin_beat(loop)
        try:
            await loop.create_future()
        finally:
            self._beat.cancel()
            self._ended.set()

    def _begin_beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """By a timer alone: a task that sleeps would cost twice as much, two hundred times a second."""
        due, computed = time.monotonic() + BEAT, time.thread_time()
        self._beat = loop.call_later(BEAT, self._end_beat, loop, due, computed)

    def _end_beat(self, loop: asyncio.AbstractEventLoop, due: float, computed: float) -> None:
        self._beat_at = now = time.monotonic()
        if now - due >= LISTED:
            held = min(now - due, time.thread_time() - computed)
            if held >= LISTED:
                self._record(now, held)
        self._begin_beat(loop)

    def _record(self, now: float, held: float) -> None:
        self._holds.observe(held)
        while self._recent and (self._recent[-1][1] <= held):
            self._recent.pop()
        while self._recent and self._recent[0][0] < now - WINDOW:
            self._recent.popleft()
        self._recent.append((now, held))
        if held > ALLOWED and now - self._warned_at > QUIET:
            self._warned_at = now
            log.warning("the event loop was held ms=%.0f by=%s", held * 1000, self._seen or "many short steps")
        self._seen = ""

    def _look(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        """The thread's: notes the task that runs, and where, once the beat is late."""
        late = ALLOWED / 2 + BEAT
        wait = late
        while not self._ended.wait(wait):
            since = time.monotonic() - self._beat_at
            if since < late:
                wait = late - since
                continue
            wait = 2 * BEAT
            task = None
            with suppress(RuntimeError):
                task = asyncio.current_task(loop)
            frame = sys._current_frames().get(thread_id)
            if task is None or frame is None:
                continue
            code = frame.f_code
            name = getattr(task.get_coro(), "__qualname__", task.get_name())
            self._seen = f"{name} in {code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
