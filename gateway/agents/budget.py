"""Rate limit of one agent: each Open or Commit that it is sent adds to the messages that it may send.

A correct agent drafts after a session opens or tokens are committed, and then sends at most as many messages as the
window has nodes, since each message holds at least one. More messages only cost the gateway time, even if each of them
is valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgedraft.wire import TOO_FAST, WireError

MESSAGES_PER_SECOND = 20.0  # added by time alone
EXTRA_MESSAGES = 8  # beyond each window: drafts that cross with a commit, new epochs
MAX_MESSAGES = 4096  # that may be saved up
MESSAGE_BYTES = 64  # of a Draft of one node, at most; further nodes take less


class AgentBudget:
    """A token bucket of messages, and one of MESSAGE_BYTES bytes per message. An empty frame counts as a message."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._earned_at = clock()
        self._messages = self._bytes = float(MAX_MESSAGES)  # both in messages

    def allow(self, window: int) -> None:
        """Add the messages that an Open or Commit with this window may cause."""
        self._earn(window + EXTRA_MESSAGES)

    def take_frame(self, size: int) -> None:
        """Count a frame of `size` bytes, before it is decoded. Raises WireError TOO_FAST."""
        now = self._clock()
        self._earn((now - self._earned_at) * MESSAGES_PER_SECOND)
        self._earned_at = now
        self._bytes -= size / MESSAGE_BYTES
        self._check()

    def take_messages(self, count: int) -> None:
        """Count the frame's messages. Raises WireError TOO_FAST."""
        self._messages -= max(1, count)
        self._check()

    def _earn(self, messages: float) -> None:
        self._messages = min(MAX_MESSAGES, self._messages + messages)
        self._bytes = min(MAX_MESSAGES, self._bytes + messages)

    def _check(self) -> None:
        if self._messages < 0 or self._bytes < 0:
            what = "messages" if self._messages < 0 else "bytes"
            raise WireError(TOO_FAST, f"more {what} than there was news to draft for; send drafts, each once")
