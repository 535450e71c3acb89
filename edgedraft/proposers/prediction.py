"""The client's predicted output (OpenAI's Predicted Outputs) as a draft: a cursor in the prediction follows the output.

While output and prediction agree, the next tokens of the prediction are proposed. Where they differ, the last tokens of
the output are searched for further on in the prediction, and the cursor continues from there. An edited text therefore
costs a few plain tokens per edit. The probability of a proposed token is estimated from how long both have agreed and
how often that was right.

Verifiers and agents draft from it; the gateway counts accepted prediction tokens with it. The cursor's position is a
pure function of prediction and output, so all of them agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgedraft.proposers.prompt_lookup import MAX_MATCH, MIN_PATH_PROBABILITY, MatchRates

MAX_TAIL = 4  # last tokens of the output that are searched for
MAX_SEARCH = 8192  # prediction tokens that are searched for a pair of tokens
MAX_UNIGRAM_SEARCH = 8  # prediction tokens that are searched for a single token
MAX_CANDIDATES = 16  # matching pairs that are compared
MIN_TRUSTED_MATCH = 4  # tokens after which a match beyond MAX_UNIGRAM_SEARCH counts
MAX_CHAIN = 64  # tokens per proposal
# The probability of the next token after 0, 1, 2, ... tokens of agreement, before any was measured.
PRIOR = (0.8, 0.5, 0.65, 0.75, *(1 - 1 / (run + 2) for run in range(4, MAX_MATCH + 1)))


@dataclass(slots=True)
class PredictionCursor:
    """A position in a prediction, that of the next expected token; None while the output does not match."""

    prediction: np.ndarray  # int64 [n]
    position: int | None = 0
    match_rates: MatchRates = field(default_factory=lambda: MatchRates(prior=PRIOR))
    num_output: int = 0  # output tokens so far
    _match_start: int = 0  # where the match that ends at `position` begins
    _search_start: int = 0  # prediction tokens before it were matched or skipped
    _num_matched: int = 0  # prediction tokens in matches that have ended
    _tail: tuple[int, ...] = ()  # the last tokens of the output

    @classmethod
    def from_prediction(cls, prediction: Sequence[int]) -> PredictionCursor:
        """A cursor at the beginning of `prediction`, for an output without tokens."""
        return cls(np.array(prediction, dtype=np.int64))

    @property
    def num_accepted(self) -> int:
        """How many prediction tokens were found in the output, in order."""
        return self._num_matched + self.match_length

    @property
    def match_length(self) -> int:
        """How many tokens long prediction and output have agreed up to `position`."""
        return 0 if self.position is None else self.position - self._match_start

    def advanced_copy(self, path: Iterable[int]) -> PredictionCursor:
        """A copy of this cursor after the tokens of a draft path."""
        rates = self.match_rates
        other = replace(self, match_rates=replace(rates, attempts=[*rates.attempts], hits=[*rates.hits]))
        other.advance(path)
        return other

    def advance(self, output: Iterable[int]) -> None:
        """Follow the next output tokens."""
        for token in output:
            self._tail = (*self._tail[1 - MAX_TAIL :], token)
            self.num_output += 1
            if self.position is None:
                self._find_match()
            elif self.position < len(self.prediction):
                right = int(self.prediction[self.position]) == token
                self.match_rates.observe(self.match_length, right)
                if right:
                    self.position += 1
                else:
                    self._end_match()
                    self._find_match()
            else:
                self._end_match()

    def propose(self, max_tokens: int = MAX_CHAIN) -> tuple[list[int], list[float]]:
        """The chain proposed next: its tokens, and each one's probability given that those before are right."""
        if self.position is None:
            return [], []
        tokens: list[int] = self.prediction[self.position : self.position + max_tokens].tolist()
        probabilities: list[float] = []
        path = 1.0
        for step in range(len(tokens)):
            probability = self.match_rates.probability(self.match_length + step)
            path *= probability
            if path < MIN_PATH_PROBABILITY:
                break
            probabilities.append(probability)
        return tokens[: len(probabilities)], probabilities

    def _end_match(self) -> None:
        """Output and prediction differ from here on.

        A short match far ahead was a coincidence: it does not count, and what it skipped is still searched.
        """
        assert self.position is not None
        is_near = self._match_start - self._search_start <= MAX_UNIGRAM_SEARCH
        if self.match_length >= MIN_TRUSTED_MATCH or is_near:
            self._num_matched += self.match_length
            self._search_start = self.position
        self.position = None

    def _find_match(self) -> None:
        """Search the output's tail from _search_start on: the longest match, and of equally long ones the nearest."""
        start, tail = self._search_start, self._tail
        near = self.prediction[start : start + MAX_UNIGRAM_SEARCH]
        best, length = next(((start + int(i), 1) for i in np.flatnonzero(near == tail[-1])), (-1, 0))
        if len(tail) > 1:
            searched = self.prediction[start : start + MAX_SEARCH]
            pairs = np.flatnonzero((searched[:-1] == tail[-2]) & (searched[1:] == tail[-1]))[:MAX_CANDIDATES]
            for last in (pairs + start + 1).tolist():
                common = 2
                limit = min(len(tail), last - start + 1)
                while common < limit and self.prediction[last - common] == tail[-1 - common]:
                    common += 1
                if common > length:
                    best, length = last, common
        if length:
            self._match_start, self.position = best + 1 - length, best + 1


def count_accepted(prediction: Sequence[int], output: Sequence[int]) -> tuple[int, int]:
    """(accepted, rejected): how many tokens of the prediction are in the output, in order, and how many are not.

    They add up to the prediction's length (OpenAI's completion_tokens_details). Takes linear time.
    """
    cursor = PredictionCursor.from_prediction(prediction)
    cursor.advance(output)
    return cursor.num_accepted, len(prediction) - cursor.num_accepted
