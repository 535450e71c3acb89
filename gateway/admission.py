"""Admission: how many generations one key may run at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import RATE_LIMIT, ApiError


class Admission:
    """Counts the generations that run, a key at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[str] = Counter()

    @contextmanager
    def hold(self, key_id: str, generations: int) -> Iterator[None]:
        """Room for `generations` while the context lasts. Raises ApiError 429 when there is too little."""
        if self._running[key_id] + generations > self._limit:
            raise ApiError(
                429,
                f"This key may run {self._limit} generations at once and {self._running[key_id]} are running.",
                kind=RATE_LIMIT,
                code="rate_limit_exceeded",
                retry_after=1,
            )
        self._running[key_id] += generations
        try:
            yield
        finally:
            self._running[key_id] -= generations
            if not self._running[key_id]:
                del self._running[key_id]
