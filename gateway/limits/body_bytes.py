"""Bounds the bytes of request bodies that are not complete yet, in the process, with a fair share for each key.

One key may take all while nobody else needs it. When it is full, a key below its share gets room from the one that has
most, whose largest body is cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.http.bodies.body import too_many_bytes


class Body:
    """One body that is being read."""

    def __init__(self, key_id: str, cut_off: Callable[[], None]) -> None:
        self.key_id = key_id
        self.size = 0  # bytes
        self.is_cut_off = False
        self.cut_off = cut_off


class BodyBytes:
    """At most `limit` bytes of incomplete bodies."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used: Counter[str] = Counter()  # bytes by key
        self._total = 0
        self._bodies: dict[str, set[Body]] = {}

    @property
    def used(self) -> int:
        return self._total

    @contextmanager
    def reading(self, key_id: str, cut_off: Callable[[], None]) -> Iterator[Body]:
        """A body that is read while the context lasts. `cut_off` is called when others need its room."""
        body = Body(key_id, cut_off)
        self._bodies.setdefault(key_id, set()).add(body)
        try:
            yield body
        finally:
            self._release(body)
            bodies = self._bodies[key_id]
            bodies.discard(body)
            if not bodies:
                del self._bodies[key_id]

    def take(self, body: Body, size: int) -> None:
        """Count `size` more bytes of this body. Raises ApiError 429 when there is no room that is this key's share."""
        if body.is_cut_off:
            raise too_many_bytes()
        while self._total + size > self._limit:
            share = self._limit // len(self._bodies)
            if self._used[body.key_id] + size > share:
                raise too_many_bytes()
            key_id, _ = self._used.most_common(1)[0]  # above its share, since this one is not
            largest = max(self._bodies[key_id], key=lambda other: other.size)
            self._release(largest)
            largest.is_cut_off = True
            largest.cut_off()
        body.size += size
        self._total += size
        self._used[body.key_id] += size

    def _release(self, body: Body) -> None:
        self._total -= body.size
        self._used[body.key_id] -= body.size
        body.size = 0
        if not self._used[body.key_id]:
            del self._used[body.key_id]
