"""How long a session would wait for admission, predicted from the sessions that run and from those ahead of it.

An answer is expected to be as long as answers have been on average, or as its limit still allows, at the token rate of
recent steps. scheduler.py and admission_queue.py decide what follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heapreplace

from verifier.scheduling.policy import running_mean

DECAY = 0.98  # weight left to earlier steps after each step


class Forecast:
    """Running means of answer length and of seconds per token and session, of which some are spent on prompts."""

    def __init__(self) -> None:
        self._mean_output_tokens: float | None = None
        self._seconds = self._prompt_seconds = self._tokens = 0.0

    def record_finished(self, tokens: int) -> None:
        """Add a finished answer of `tokens` tokens."""
        self._mean_output_tokens = running_mean(self._mean_output_tokens, tokens)

    def record_step(self, sessions: int, tokens: int, seconds: float, prompt_seconds: float) -> None:
        """Add a step that committed `tokens` tokens while `sessions` ran.

        Waiting is part of `seconds`, and so are the `prompt_seconds` by which prompts made the step longer.
        """
        self._seconds = DECAY * self._seconds + seconds
        self._prompt_seconds = DECAY * self._prompt_seconds + min(seconds, prompt_seconds)
        self._tokens = DECAY * self._tokens + tokens / max(1, sessions)

    def token_rate(self, sessions: int) -> float:
        """Tokens per second of the engine while `sessions` run; 0 while nothing is known."""
        return sessions * self._tokens / self._seconds if self._seconds else 0.0

    def time_value(self, sessions: int) -> float:
        """What a second is worth, in tokens: the tokens per second of the time that is not spent on prompts.

        Prompts take the same time for each answer, however fast its tokens are. So the most tokens per second come from
        steps that commit the most in the time that is left.
        """
        seconds = self._seconds - self._prompt_seconds
        return sessions * self._tokens / seconds if seconds > 0 else 0.0

    def expected_output(self, max_tokens: int) -> float:
        """Expected tokens of an answer that may have `max_tokens`."""
        return max_tokens if self._mean_output_tokens is None else min(max_tokens, self._mean_output_tokens)

    def remaining_seconds(self, max_tokens: int) -> float:
        """Expected seconds of a session that may still generate `max_tokens` tokens; 0 while nothing is known."""
        if self._mean_output_tokens is None or not self._tokens:
            return 0.0
        return min(max_tokens, self._mean_output_tokens) * self._seconds / self._tokens


def queue_wait(running: Iterable[float], queued: Iterable[float]) -> float:
    """Seconds until a slot is free behind a queue whose sessions each take the slot that is free first.

    `running` and `queued` are the expected seconds of each session. Every running one has a slot.
    """
    slots = list(running)
    if not slots:
        return 0.0
    heapify(slots)
    for seconds in queued:
        heapreplace(slots, slots[0] + seconds)
    return slots[0]
