"""The oracle's probabilities are exact, have the given mean, and do not depend on the process."""

from __future__ import annotations

from collections import Counter

import pytest

from edgedraft.wire import Sampling
from loadtest.simulator.oracle_draft import WRONG_TOKENS, OracleDraftModel
from loadtest.simulator.recorded_chats import RecordedChat

TOKENS = 20_000
CHAT = RecordedChat(0, "", "", (1, 2), Sampling(temperature=0), TOKENS, tuple(range(TOKENS)))


@pytest.mark.parametrize("acceptance", [0.45, 0.75, 0.92])
def test_the_most_likely_token_is_right_as_often_as_asked_for(acceptance: float) -> None:
    oracle = OracleDraftModel([CHAT], acceptance)
    firsts = [oracle.propose((0, at, ())) for at in range(TOKENS)]
    assert sum(p.tokens[0] == at for at, p in enumerate(firsts)) / TOKENS == pytest.approx(acceptance, abs=0.015)
    assert sum(p.probabilities[0] for p in firsts) / TOKENS == pytest.approx(acceptance, abs=0.015)


def test_a_token_is_right_with_the_probability_that_it_states() -> None:
    oracle = OracleDraftModel([CHAT], 0.6)
    stated: Counter[tuple[bool, int]] = Counter()  # sums of probabilities by rank (first, sibling) and tenth
    hits: Counter[tuple[bool, int]] = Counter()
    counts: Counter[tuple[bool, int]] = Counter()
    for at in range(TOKENS):
        proposal = oracle.propose((0, at, ()))
        for rank, (token, probability) in enumerate(zip(proposal.tokens, proposal.probabilities, strict=True)):
            group = rank == 0, int(10 * probability)
            counts[group] += 1
            stated[group] += probability  # type: ignore[assignment]
            hits[group] += token == at
    for group, count in counts.items():
        if count > 400:
            assert hits[group] / count == pytest.approx(stated[group] / count, abs=0.05), group
    assert sum(count > 400 for count in counts.values()) >= 12


def test_behind_a_wrong_token_nothing_is_right() -> None:
    oracle = OracleDraftModel([CHAT], 0.75)
    proposal = oracle.propose((0, 5, (WRONG_TOKENS[0],)))
    assert min(proposal.tokens) >= WRONG_TOKENS[0]
    assert sum(proposal.probabilities) <= 1


def test_proposals_differ_by_seed_and_position_and_by_nothing_else() -> None:
    oracle, same, other = (OracleDraftModel([CHAT], 0.75, seed) for seed in (0, 0, 1))
    assert oracle.propose((0, 5, ())) == same.propose((0, 5, ())) != oracle.propose((0, 6, ()))
    assert oracle.propose((0, 5, ())) != other.propose((0, 5, ()))
    # The same in every process: hashes of strings and tuples are not.
    assert OracleDraftModel([CHAT], 0.75, seed=3).propose((0, 4, (7,))).tokens == (2137375724, 1342604206)
