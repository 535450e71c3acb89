"""Where the text of each of a choice's tokens ends, so that text which is sent or cut can be told in tokens."""

from __future__ import annotations

from collections import deque


class TokenEnds:
    """Counts a choice's tokens by the places, in characters of its complete text, where their texts end.

    A token without text ends where the next one's text does. Tokens are taken in order, each once.
    """

    def __init__(self) -> None:
        self.length = 0  # characters of text so far
        self._ends: deque[int] = deque()  # of the tokens that are not taken yet
        self._num_taken = 0
        self._taken_until = 0  # where the last token taken ends
        self._num_textless = 0  # tokens since the last one with text

    def add(self, text: str) -> None:
        """The next token completes `text`, which may be empty."""
        if not text:
            self._num_textless += 1
            return
        self.length += len(text)
        self._ends.append(self.length)
        if self._num_textless:
            self._ends.extend([self.length] * self._num_textless)
            self._num_textless = 0

    def take(self, start: int, end: int) -> slice:
        """Returns which tokens end in text[start:end]. Earlier ones that were not taken never are."""
        self._advance(start)
        first = self._num_taken
        self._advance(end)
        return slice(first, self._num_taken)

    def take_begun(self, start: int, end: int) -> slice:
        """Returns which tokens end in text[start:end] or have text in it."""
        taken = self.take(start, end)
        if self._ends and self._taken_until < end:
            self._advance(self._ends[0])
        return slice(taken.start, self._num_taken)

    def count(self, position: int) -> int:
        """Returns how many tokens end at or before this place."""
        return self._num_taken + sum(end <= position for end in self._ends)

    def count_until(self, position: int) -> int:
        """Returns how many tokens there are up to the one that completes text[:position], including it."""
        return self.count(next(end for end in self._ends if end >= position))

    @property
    def num_textless(self) -> int:
        """How many tokens at the end have no text."""
        return self._num_textless

    def _advance(self, position: int) -> None:
        while self._ends and self._ends[0] <= position:
            self._taken_until = self._ends.popleft()
            self._num_taken += 1
