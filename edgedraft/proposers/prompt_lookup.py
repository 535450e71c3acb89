"""Prompt lookup: where the text repeats itself, what followed last time is the guess. No weights, microseconds a look.

The longest of the last 4, 3 or 2 tokens that occurred before is found through hash tables of fixed size; the chain
copied from there may run on into itself, so a period is continued for ever. How far a copy is trusted depends on how
long the match is, and on how often matches of that length were right in this session: every committed token is
predicted before it is learnt.

Agents and verifiers look things up in the same way; whose turn it is, and what becomes of the guesses, is theirs.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

GRAMS = (4, 3, 2)  # tokens looked for, longest first
SLOTS = 1 << 15  # entries of one table; of two n-grams in one slot the later stays
LONGEST_MATCH = 16
CHAIN = 12  # tokens of one answer at most
LEAST_PATH = 0.02  # a chain ends where its probability falls below
# What a match of 0, 1, 2, ... tokens is worth before it was measured; this many measurements weigh as much.
PRIOR = (0.0, 0.0, 0.25, 0.4, 0.55, 0.65, 0.7, 0.75, *(0.8,) * 8, 0.9)
PRIOR_WEIGHT = 6.0


@dataclass(slots=True)
class Trust:
    """How often copies were right, by the length of the match that they stand on."""

    tried: list[int] = field(default_factory=lambda: [0] * (LONGEST_MATCH + 1))
    right: list[int] = field(default_factory=lambda: [0] * (LONGEST_MATCH + 1))
    prior: Sequence[float] = PRIOR

    def chance(self, length: int) -> float:
        """The probability that the token after a match of that length is the right one."""
        length = min(length, LONGEST_MATCH)
        return (self.right[length] + self.prior[length] * PRIOR_WEIGHT) / (self.tried[length] + PRIOR_WEIGHT)

    def observe(self, length: int, right: bool) -> None:
        """A copy behind a match of that length was right, or was not."""
        self.tried[min(length, LONGEST_MATCH)] += 1
        self.right[min(length, LONGEST_MATCH)] += right


@dataclass(slots=True)
class TextIndex:
    """What is remembered of one session: where n-grams last occurred, and how matches of each length did."""

    learnt: int = 0  # how many tokens of the settled text are in the tables
    tables: dict[int, array[int]] = field(default_factory=lambda: {n: array("i", [0]) * SLOTS for n in GRAMS})
    trust: Trust = field(default_factory=Trust)

    def find(self, text: Sequence[int], end: int) -> tuple[int, int]:
        """(place, length): text[:end] ends with the `length` tokens that text[:place] ends with; (0, 0) if none."""
        for n in GRAMS:
            if n >= end:
                continue
            gram = text[end - n : end]
            place = self.tables[n][hash(tuple(gram)) % SLOTS]
            if place >= n and text[place - n : place] == gram:
                length = n
                while length < min(place, LONGEST_MATCH) and text[place - length - 1] == text[end - length - 1]:
                    length += 1
                return place, length
        return 0, 0

    def learn(self, text: Sequence[int], settled: int, output_begins: int) -> None:
        """Take in text[learnt:settled]; output tokens are predicted first, to measure."""
        for place in range(self.learnt, settled):
            if place >= output_begins:
                found, length = self.find(text, place)
                if found:
                    self.trust.observe(length, text[found] == text[place])
            for n in GRAMS:
                if place >= n:
                    self.tables[n][hash(tuple(text[place - n : place])) % SLOTS] = place
        self.learnt = max(self.learnt, settled)

    def continuation(self, text: Sequence[int]) -> tuple[list[int], list[float]]:
        """A guessed continuation, a chain: its tokens, and the chance of each once those before it are right."""
        place, length = self.find(text, len(text))
        chain: list[int] = []
        probabilities: list[float] = []
        path = 1.0
        for step in range(CHAIN if place else 0):
            probability = self.trust.chance(length + step)
            path *= probability
            if path < LEAST_PATH:
                break
            source = place + step
            chain.append(text[source] if source < len(text) else chain[source - len(text)])
            probabilities.append(probability)
        return chain, probabilities
