"""Chains of a server's tokens as proposals, and how long a chain to ask for.

A server continues with its own most likely token. The proposal at each place comes from its most likely tokens and the
target's noise (proposals/from_top_tokens.py), so at temperatures above 0 the two may differ: the chain ends where they
do, with that place's proposal as its last. At temperature 0 they are the same throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_agent.drafters.interface import NO_PROPOSAL, DraftRequest, Proposal
from edge_agent.drafters.proposals.from_top_tokens import propose_from_top_tokens
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edge_agent.drafters.server.api import Place

MAX_CHAIN = 16  # tokens of one call
MAX_CALL_SECONDS = 0.1  # of a chain: a commit that contradicts it waits for its end
PROBE_CALLS = 8  # of which one is longer than it would be
FORGETTING = 0.95  # weight of a call against the one after it
SMOOTHING = 0.1  # weight of the newest value in a moving average
FIRST_GOING_ON = 0.7  # before it was measured


class CallCosts:
    """Seconds of a call by its length, as a straight line through those of the last calls."""

    def __init__(self) -> None:
        self._weight = self._length = self._seconds = self._length_squared = self._product = 0.0

    def record(self, length: int, seconds: float) -> None:
        """Learn from a call that returned so many tokens."""
        self._weight = FORGETTING * self._weight + 1
        self._length = FORGETTING * self._length + length
        self._seconds = FORGETTING * self._seconds + seconds
        self._length_squared = FORGETTING * self._length_squared + length * length
        self._product = FORGETTING * self._product + length * seconds

    def seconds(self, length: int) -> float:
        """Expected seconds of a call; 1.0 before the first. Neither a call nor a token costs less than nothing."""
        if not self._weight:
            return 1.0
        mean_length, mean_seconds = self._length / self._weight, self._seconds / self._weight
        variance = self._length_squared / self._weight - mean_length**2
        covariance = self._product / self._weight - mean_length * mean_seconds
        slope = covariance / variance if variance > 1e-6 else 0.0
        slope = min(max(0.0, slope), mean_seconds / mean_length)
        return mean_seconds + slope * (length - mean_length)


class ChainLength:
    """Chooses the length of the next chain: the one that is expected to add the most tokens per second.

    The time of a call by its length is measured: a call costs something however short it is, and each token more. So is
    how likely a chain's token is worth another one: its probability, where the server went on with the token that was
    proposed, else 0. With that likelihood r, a chain of k tokens adds 1 + r + ... + r^(k-1) times what one adds.
    Greedy and sampled drafts are measured apart, as the latter's chains end much sooner. Every PROBE_CALLS-th call is
    twice as long, so that the cost of a token stays known.
    """

    def __init__(self) -> None:
        self._costs = CallCosts()
        self._going_on = {True: FIRST_GOING_ON, False: FIRST_GOING_ON}
        self._longest = 0  # tried so far; the next is at most twice as long
        self._calls = 0

    def choose(self, greedy: bool) -> int:
        """The length of the next chain, from 1 to MAX_CHAIN."""
        rate, best, length, expected = self._going_on[greedy], 0.0, 1, 0.0
        limit = max(1, min(MAX_CHAIN, 2 * self._longest))
        for k in range(1, limit + 1):
            expected += rate ** (k - 1)
            seconds = self._costs.seconds(k)
            if k > 1 and seconds > MAX_CALL_SECONDS:
                break
            if expected / seconds > best:
                best, length = expected / seconds, k
        self._calls += 1
        if self._calls % PROBE_CALLS == 0:
            length = min(limit, 2 * length)
        return length

    def record_call(self, length: int, seconds: float) -> None:
        """Learn from a call that returned so many tokens and had no long prompt to compute."""
        self._longest = max(self._longest, length)
        self._costs.record(length, seconds)

    def record_place(self, greedy: bool, worth: float) -> None:
        """Learn how likely it was, at a place of a chain, that another token was of use."""
        self._going_on[greedy] += SMOOTHING * (worth - self._going_on[greedy])


def propose_chain(
    places: Sequence[Place],
    request: DraftRequest,
    vocab_size: int,
    token_counts: SessionTokenCounts,
) -> tuple[Proposal, list[float]]:
    """A tree of the chain's tokens with siblings at each place; tokens at or above `vocab_size` are left out.

    Also returns for each place that was used how likely another token behind it was of use (ChainLength).
    """
    tokens: list[int] = []
    parents: list[int] = []
    probabilities: list[float] = []
    expanded: list[int] = []
    worth: list[float] = []
    parent, path = -1, list[int]()
    for i, place in enumerate(places):
        here = replace(request, context=request.context + path, output_index=request.output_index + i)
        known = [entry for entry in place.top if entry[0] < vocab_size]
        with token_counts.counts_at(here) as counts:
            step = propose_from_top_tokens(known, request.sampling, here.output_index, counts)
        if not step.tokens:
            break
        if parent >= 0:
            expanded.append(parent)
        first = len(tokens)
        tokens += step.tokens
        parents += [parent] * len(step.tokens)
        probabilities += step.probabilities
        goes_on = step.tokens[0] == place.token
        worth.append(step.probabilities[0] if goes_on else 0.0)
        if not goes_on:
            break
        parent = first
        path.append(place.token)
    if not tokens:
        return NO_PROPOSAL, worth
    return Proposal(tuple(tokens), tuple(parents), tuple(probabilities), expanded=tuple(expanded)), worth
