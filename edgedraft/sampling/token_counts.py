"""What penalties need to know of a text: which tokens it has, and how often its output has each.

What is made of that is penalties.py's. This file needs no torch, since desktops without it draft, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from edgedraft.wire import Sampling


def has_penalties(sampling: Sampling) -> bool:
    """Whether choices depend on which tokens came before."""
    return bool(sampling.frequency_penalty or sampling.presence_penalty or sampling.repetition_penalty != 1)


class TokenCounts:
    """The tokens of a text, and how often its output has each of them. Grows in constant time a token."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], output: Iterable[int] = ()) -> None:
        """Of the prompt only the repetition penalty knows."""
        self._tokens = array("q", dict.fromkeys(prompt) if sampling.repetition_penalty != 1 else ())
        self._counts = array("f", bytes(4 * len(self._tokens)))
        self._place = {token: place for place, token in enumerate(self._tokens)}
        self.extend(output)

    def extend(self, output: Iterable[int]) -> None:
        """These tokens follow."""
        for token in output:
            place = self._place.setdefault(token, len(self._tokens))
            if place == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0.0)
            self._counts[place] += 1

    @contextmanager
    def with_path(self, path: Sequence[int]) -> Iterator[TokenCounts]:
        """The same text with a path behind it, for as long as the context lasts."""
        before = len(self._tokens)
        self.extend(path)
        try:
            yield self
        finally:
            for token in path:
                self._counts[self._place[token]] -= 1
            for token in self._tokens[before:]:
                del self._place[token]
            del self._tokens[before:], self._counts[before:]

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens, int64 [n], and their counts in the output, float32 [n]."""
        return np.array(self._tokens, dtype=np.int64), np.array(self._counts, dtype=np.float32)

    def counts(self, tokens: Iterable[int]) -> np.ndarray:
        """How often the output has each of these tokens, float32."""
        places = (self._place.get(token) for token in tokens)
        return np.array([0.0 if place is None else self._counts[place] for place in places], dtype=np.float32)
