"""Prompt lookup (n-gram speculation): where the last tokens occurred before, what followed them is proposed again.

The last 4, 3 or 2 tokens are looked up in hash tables of fixed size, longest first. A proposal may run on into itself,
so a repeating pattern continues indefinitely. The probability of a proposed token is estimated from the match length
and from how often matches of that length were right in this session: every committed token is first predicted, then
indexed. It needs no weights and takes microseconds.

Agents and verifiers both use it. When it runs and what happens to the proposals is decided by them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

NGRAM_SIZES = (4, 3, 2)  # lengths that are looked up, longest first
TABLE_SIZE = 1 << 15  # entries per table; of two n-grams with one hash the later one is kept
MAX_MATCH = 16  # longer matches count as this length
MAX_CHAIN = 12  # tokens per proposal
MIN_PATH_PROBABILITY = 0.02  # a proposal ends where its path's probability falls below
# The probability after a match of 0, 1, 2, ... tokens before any was measured; PRIOR_WEIGHT measurements weigh as much.
PRIOR = (0.0, 0.0, 0.25, 0.4, 0.55, 0.65, 0.7, 0.75, *(0.8,) * 8, 0.9)
PRIOR_WEIGHT = 6.0


@dataclass(slots=True)
class MatchRates:
    """How often the token proposed after a match was right, by the length of the match."""

    attempts: list[int] = field(default_factory=lambda: [0] * (MAX_MATCH + 1))
    hits: list[int] = field(default_factory=lambda: [0] * (MAX_MATCH + 1))
    prior: Sequence[float] = PRIOR

    def probability(self, length: int) -> float:
        """The estimated probability that the token proposed after a match of `length` tokens is right."""
        length = min(length, MAX_MATCH)
        return (self.hits[length] + self.prior[length] * PRIOR_WEIGHT) / (self.attempts[length] + PRIOR_WEIGHT)

    def observe(self, length: int, right: bool) -> None:
        """Count one proposed token after a match of `length` tokens."""
        self.attempts[min(length, MAX_MATCH)] += 1
        self.hits[min(length, MAX_MATCH)] += right


@dataclass(slots=True)
class NgramIndex:
    """Where the n-grams of one session's text last occurred, and the match rates measured so far."""

    num_indexed: int = 0  # tokens of the committed text that are in the tables
    tables: dict[int, array[int]] = field(
        default_factory=lambda: {n: array("i", [0]) * TABLE_SIZE for n in NGRAM_SIZES}
    )
    match_rates: MatchRates = field(default_factory=MatchRates)

    def find_match(self, text: Sequence[int], end: int) -> tuple[int, int]:
        """(position, length): text[:position] and text[:end] have their last `length` tokens in common.

        (0, 0) if there is no match. `length` is at most MAX_MATCH.
        """
        for n in NGRAM_SIZES:
            if n >= end:
                continue
            ngram = text[end - n : end]
            position = self.tables[n][hash(tuple(ngram)) % TABLE_SIZE]
            if position >= n and text[position - n : position] == ngram:
                length = n
                while length < min(position, MAX_MATCH) and text[position - length - 1] == text[end - length - 1]:
                    length += 1
                return position, length
        return 0, 0

    def update(self, text: Sequence[int], num_committed: int, prompt_length: int) -> None:
        """Index text[num_indexed:num_committed]. Each output token is predicted first, to measure the match rates."""
        for position in range(self.num_indexed, num_committed):
            if position >= prompt_length:
                found, length = self.find_match(text, position)
                if found:
                    self.match_rates.observe(length, text[found] == text[position])
            for n in NGRAM_SIZES:
                if position >= n:
                    self.tables[n][hash(tuple(text[position - n : position])) % TABLE_SIZE] = position
        self.num_indexed = max(self.num_indexed, num_committed)

    def propose(self, text: Sequence[int]) -> tuple[list[int], list[float]]:
        """A chain that may follow `text`: its tokens, and each one's probability given that those before are right."""
        position, length = self.find_match(text, len(text))
        chain: list[int] = []
        probabilities: list[float] = []
        path = 1.0
        for step in range(MAX_CHAIN if position else 0):
            probability = self.match_rates.probability(length + step)
            path *= probability
            if path < MIN_PATH_PROBABILITY:
                break
            source = position + step
            chain.append(text[source] if source < len(text) else chain[source - len(text)])
            probabilities.append(probability)
        return chain, probabilities
