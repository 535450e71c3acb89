"""How much an agent may send: as much as it was told news, and a little more.

An agent has a reason to send when a session opens or tokens are committed, and then no more messages than the window
that came with the news: each holds at least one node of it. Whoever sends more costs the gateway work that can be worth
nothing, however right each message is by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edgedraft.wire import TOO_FAST, WireError

MESSAGES_PER_SECOND = 20.0  # without any news
MESSAGES_PER_NEWS = 8  # beyond the window it carries: drafts that cross with it, new epochs
MAX_MESSAGES = 4096  # saved up
MESSAGE_BYTES = 64  # of a Draft of one node, at most; further nodes take less


class AgentBudget:
    """One link's allowance of messages, and of so many bytes a message. An empty frame counts as a message."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._messages = self._bytes = float(MAX_MESSAGES)  # both in messages

    def allow(self, window: int) -> None:
        """The agent is told something that it may draft for."""
        self._earn(window + MESSAGES_PER_NEWS)

    def take_frame(self, size: int) -> None:
        """A frame came; to be called before it is read. Raises WireError TOO_FAST."""
        now = self._clock()
        self._earn((now - self._at) * MESSAGES_PER_SECOND)
        self._at = now
        self._bytes -= size / MESSAGE_BYTES
        self._check()

    def take_messages(self, count: int) -> None:
        """So many were in it. Raises WireError TOO_FAST."""
        self._messages -= max(1, count)
        self._check()

    def _earn(self, messages: float) -> None:
        self._messages = min(MAX_MESSAGES, self._messages + messages)
        self._bytes = min(MAX_MESSAGES, self._bytes + messages)

    def _check(self) -> None:
        if self._messages < 0 or self._bytes < 0:
            what = "messages" if self._messages < 0 else "bytes"
            raise WireError(TOO_FAST, f"more {what} than there was news to draft for; send drafts, each once")
