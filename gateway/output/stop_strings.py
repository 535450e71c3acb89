"""Finds stop strings in a choice's content: no text from a stop string on.

Content that may be the beginning of a stop string is held back until it cannot be one. Where the content is cut does
not depend on the pieces in which it comes: the match that ends first counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.output.parser import Content


class StopStrings:
    """Call `add` with each piece of content until `end` is set, and `flush` where a run of content ends.

    `end` is where the stop string that was found ends in the choice's complete text. A stop string that ends at or
    before `not_before`, a place in that text, does not count.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.end: int | None = None
        self.not_before: float = 0
        self._stops = tuple(stops)
        self._held = ""
        self._start = 0  # of `_held`, in the complete text

    def add(self, content: Content) -> Content:
        """Returns the content that can be sent; its text may be empty, and ends where the stop string starts.

        A piece has to follow the last one without a gap, unless `flush` was called in between.
        """
        if not self._stops:
            return content
        if not self._held:
            self._start = content.start
        self._held += content.text
        if found := self._find():
            end, start = found
            self.end = self._start + end
            return self._release(start)
        return self._release(len(self._held) - max(_overlap(self._held, stop) for stop in self._stops))

    def flush(self) -> Content:
        """Returns the content that was held back."""
        return self._release(len(self._held))

    def _release(self, length: int) -> Content:
        released = Content(self._start, self._held[:length])
        self._held = self._held[length:]
        self._start += length
        return released

    def _find(self) -> tuple[int, int] | None:
        """End and start in `_held` of the stop string that ends first; of two that end together, the longer one."""
        least_end = self.not_before - self._start + 1
        if least_end > len(self._held):
            return None
        found = []
        for stop in self._stops:
            start = self._held.find(stop, max(0, int(least_end) - len(stop)))
            if start >= 0:
                found.append((start + len(stop), start))
        return min(found, default=None)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
