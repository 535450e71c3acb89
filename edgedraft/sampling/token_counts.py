"""Token counts of a text, as the penalties need them: which tokens occur and how often each occurs in the output.

penalties.py applies them. This module needs no torch, because agents without torch draft too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from edgedraft.wire import Sampling


def has_penalties(sampling: Sampling) -> bool:
    """Whether the next token depends on which tokens came before, other than through the model."""
    return bool(sampling.frequency_penalty or sampling.presence_penalty or sampling.repetition_penalty != 1)


class TokenCounts:
    """The distinct tokens of a text and their counts in its output. Adding a token takes constant time."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], output: Iterable[int] = ()) -> None:
        """Prompt tokens are included (with a count of 0) only if `sampling` has a repetition penalty."""
        self._tokens = array("q", dict.fromkeys(prompt) if sampling.repetition_penalty != 1 else ())
        self._counts = array("f", bytes(4 * len(self._tokens)))
        self._index = {token: index for index, token in enumerate(self._tokens)}
        self.extend(output)

    def extend(self, output: Iterable[int]) -> None:
        """Append output tokens."""
        for token in output:
            index = self._index.setdefault(token, len(self._tokens))
            if index == len(self._tokens):
                self._tokens.append(token)
                self._counts.append(0.0)
            self._counts[index] += 1

    @contextmanager
    def with_path(self, path: Sequence[int]) -> Iterator[TokenCounts]:
        """These counts with the tokens of a draft path appended, for the duration of the context."""
        before = len(self._tokens)
        self.extend(path)
        try:
            yield self
        finally:
            for token in path:
                self._counts[self._index[token]] -= 1
            for token in self._tokens[before:]:
                del self._index[token]
            del self._tokens[before:], self._counts[before:]

    def to_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct tokens, int64 [n], and their counts in the output, float32 [n]."""
        return np.array(self._tokens, dtype=np.int64), np.array(self._counts, dtype=np.float32)

    def counts(self, tokens: Iterable[int]) -> np.ndarray:
        """The counts of these tokens in the output, float32 [len(tokens)]."""
        indices = (self._index.get(token) for token in tokens)
        return np.array([0.0 if index is None else self._counts[index] for index in indices], dtype=np.float32)
