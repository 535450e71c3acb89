"""One direction of a link, and the agent's batching of drafts into frames."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from edge_agent.attach.connection import COALESCE_SECONDS
from edgedraft.wire import Draft
from loadtest.simulator.clock import Clock
from loadtest.simulator.profiles import LinkProfile

HEADER_BYTES = 66  # TCP, IP and Ethernet; WebSocket and TLS headers are left out
RETRANSMISSION_TIMEOUT = 0.2  # seconds until a lost message is sent again, when no later one reveals the loss


class LinkDirection:
    """Delivers messages in the order in which they were sent, after serialization, latency, jitter and loss."""

    def __init__(self, clock: Clock, link: LinkProfile, bits_per_second: float, rng: random.Random) -> None:
        self.bytes_sent = 0
        self._clock, self._link, self._rate, self._rng = clock, link, bits_per_second, rng
        self._idle_at = self._last_arrival = 0.0

    def send(self, size: int, arrived: Callable[[], None]) -> None:
        """Calls `arrived` when a message of `size` bytes has reached the other end."""
        size += HEADER_BYTES
        self.bytes_sent += size
        self._idle_at = max(self._idle_at, self._clock.now) + 8 * size / self._rate
        delay = self._link.rtt / 2
        if self._link.jitter:
            delay += self._rng.expovariate(1 / self._link.jitter)
        while self._rng.random() < self._link.loss:
            delay += max(RETRANSMISSION_TIMEOUT, self._link.rtt)
        self._last_arrival = max(self._last_arrival, self._idle_at + delay)
        self._clock.call_at(self._last_arrival, arrived)


class DraftBatcher:
    """Puts drafts into frames as edge_agent/attach/connection.py does: later drafts share a frame."""

    def __init__(self, clock: Clock, send: Callable[[Sequence[Draft]], None]) -> None:
        """`send` receives the drafts of one frame."""
        self._clock, self._send = clock, send
        self._waiting: list[Draft] = []
        self._timer_running = False

    def put(self, draft: Draft) -> None:
        self._waiting.append(draft)
        if not self._timer_running:
            self._flush()

    def _flush(self) -> None:
        self._timer_running = bool(self._waiting)
        if self._waiting:
            drafts, self._waiting = self._waiting, []
            self._send(drafts)
            self._clock.call_later(COALESCE_SECONDS, self._flush)
