"""What the client expects the output to be (OpenAI's Predicted Outputs), as a draft: a cursor that follows the output.

While the output agrees with the prediction, what stands next there is the guess. Where they part, the last tokens of
the output are looked for further on in the prediction, and from there it goes on; so an edited text costs a few plain
tokens an edit. How far a guess is trusted depends on how long both have agreed, and on how often that was right.

Verifiers and agents draft from it; a gateway counts with it. Where the cursor stands is a pure function of prediction
and output, so all of them find the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgedraft.proposers.prompt_lookup import LEAST_PATH, LONGEST_MATCH, Trust

TAIL = 4  # tokens of the output that are looked for, at most
AHEAD = 8192  # tokens of the prediction that are searched for a pair of tokens
NEAR = 8  # tokens that are searched for a single one
CANDIDATES = 16  # places looked at
SURE = 4  # tokens of agreement after which a place that was found far ahead is believed
CHAIN = 64  # tokens of one guess at most
# What the next token is worth after 0, 1, 2, ... tokens of agreement, before that was measured.
PRIOR = (0.8, 0.5, 0.65, 0.75, *(1 - 1 / (run + 2) for run in range(4, LONGEST_MATCH + 1)))


@dataclass(slots=True)
class PredictionCursor:
    """A place in a prediction. `place` is the next token expected there, None while the output is not found in it."""

    prediction: np.ndarray  # int64 [n]
    place: int | None = 0
    trust: Trust = field(default_factory=lambda: Trust(prior=PRIOR))
    followed: int = 0  # output tokens
    _start: int = 0  # of the agreement that ends at `place`
    _base: int = 0  # what comes before has been used, or passed over
    _matched: int = 0  # tokens of the prediction in agreements that have ended
    _tail: tuple[int, ...] = ()  # of the output

    @classmethod
    def over(cls, prediction: Sequence[int]) -> PredictionCursor:
        """At the beginning of both."""
        return cls(np.array(prediction, dtype=np.int64))

    @property
    def accepted(self) -> int:
        """How many tokens of the prediction were found in the output, in its order."""
        return self._matched + (0 if self.place is None else self.place - self._start)

    @property
    def run(self) -> int:
        """For how many tokens prediction and output have agreed."""
        return 0 if self.place is None else self.place - self._start

    def ahead(self, path: Iterable[int]) -> PredictionCursor:
        """Where the cursor would be behind a path that is a guess itself; this one stays."""
        other = replace(self, trust=replace(self.trust, tried=[*self.trust.tried], right=[*self.trust.right]))
        other.follow(path)
        return other

    def follow(self, output: Iterable[int]) -> None:
        """These tokens come next in the output."""
        for token in output:
            self._tail = (*self._tail[1 - TAIL :], token)
            self.followed += 1
            if self.place is None:
                self._find()
            elif self.place < len(self.prediction):
                right = int(self.prediction[self.place]) == token
                self.trust.observe(self.run, right)
                if right:
                    self.place += 1
                else:
                    self._part()
                    self._find()
            else:
                self._part()

    def continuation(self, most: int = CHAIN) -> tuple[list[int], list[float]]:
        """The guessed continuation, a chain: its tokens, and the chance of each once those before it are right."""
        if self.place is None:
            return [], []
        tokens: list[int] = self.prediction[self.place : self.place + most].tolist()
        chances: list[float] = []
        path = 1.0
        for step in range(len(tokens)):
            chance = self.trust.chance(self.run + step)
            path *= chance
            if path < LEAST_PATH:
                break
            chances.append(chance)
        return tokens[: len(chances)], chances

    def _part(self) -> None:
        """The agreement ends. A short one far ahead was chance, and what it passed over may yet come."""
        assert self.place is not None
        if self.run >= SURE or self._start - self._base <= NEAR:
            self._matched += self.run
            self._base = self.place
        self.place = None

    def _find(self) -> None:
        """Look for the output's last tokens from `_base` on: where most of them stand, and of those the nearest."""
        base, tail = self._base, self._tail
        near = self.prediction[base : base + NEAR]
        best, length = next(((base + int(i), 1) for i in np.flatnonzero(near == tail[-1])), (-1, 0))
        if len(tail) > 1:
            wide = self.prediction[base : base + AHEAD]
            pairs = np.flatnonzero((wide[:-1] == tail[-2]) & (wide[1:] == tail[-1]))[:CANDIDATES] + base + 1
            for last in pairs.tolist():
                agree = 2
                while agree < min(len(tail), last - base + 1) and self.prediction[last - agree] == tail[-1 - agree]:
                    agree += 1
                if agree > length:
                    best, length = last, agree
        if length:
            self._start, self.place = best + 1 - length, best + 1


def accepted_tokens(prediction: Sequence[int], output: Sequence[int]) -> tuple[int, int]:
    """(accepted, rejected): how many tokens of a prediction are in the output, in its order, and how many are not.

    They add up to the prediction (OpenAI's completion_tokens_details). A pure function of both, in linear time.
    """
    cursor = PredictionCursor.over(prediction)
    cursor.follow(output)
    return cursor.accepted, len(prediction) - cursor.accepted
