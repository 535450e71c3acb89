"""Proposals of several drafters are merged into one tree."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge_agent.drafters.interface import (
    INCOMPLETE,
    NO_PROPOSAL,
    CombinedDrafter,
    DraftRequest,
    Proposal,
    first_chain,
    merge,
)
from edgedraft.wire import Sampling

POINT = DraftRequest(9, [1], 1, 0, Sampling())


def test_the_same_token_under_the_same_parent_is_one_token_with_the_higher_probability() -> None:
    chain = Proposal((5, 6, 7), (-1, 0, 1), (0.4, 0.9, 0.5))
    fan = Proposal((5, 8), (-1, -1), (0.6, 0.2))
    merged = merge([chain, fan])
    assert merged == Proposal((5, 6, 7, 8), (-1, 0, 1, -1), (0.6, 0.9, 0.5, 0.2))
    assert merge([fan, chain]) == Proposal((5, 8, 6, 7), (-1, -1, 0, 2), (0.6, 0.2, 0.9, 0.5))


def test_equal_tokens_under_different_parents_stay_apart() -> None:
    merged = merge([Proposal((5, 5), (-1, 0), (0.5, 0.5)), Proposal((6, 5), (-1, 0), (0.3, 0.5))])
    assert merged.tokens == (5, 5, 6, 5)
    assert merged.parents == (-1, 0, -1, 2)


def test_siblings_never_pass_certainty() -> None:
    merged = merge([Proposal((1,), (-1,), (0.9,)), Proposal((2, 3), (-1, -1), (0.8, 0.1))])
    assert sum(merged.probabilities) == pytest.approx(1)
    assert merged.probabilities[0] == pytest.approx(0.5)


def test_an_answer_is_complete_when_all_parts_are() -> None:
    assert not merge([Proposal((1,), (-1,), (0.9,)), INCOMPLETE]).complete
    assert merge([NO_PROPOSAL, NO_PROPOSAL]) == NO_PROPOSAL


class Recorder:
    def __init__(self, token: int) -> None:
        self.token, self.calls = token, list[str]()

    def open(self, session: int) -> None:
        self.calls.append(f"open {session}")

    def propose(self, requests: Sequence[DraftRequest]) -> list[Proposal]:
        return [Proposal((self.token,), (-1,), (0.4,)) for _ in requests]

    def close(self, session: int, output: Sequence[int] = ()) -> None:
        self.calls.append(f"close {session}")


def test_together_asks_and_tells_every_drafter() -> None:
    both = [Recorder(3), Recorder(4)]
    together = CombinedDrafter(both)
    together.open(9)
    assert [proposal.tokens for proposal in together.propose([POINT, POINT])] == [(3, 4), (3, 4)]
    together.close(9)
    assert all(recorder.calls == ["open 9", "close 9"] for recorder in both)


def test_what_is_expanded_in_one_part_is_expanded_in_the_whole() -> None:
    merged = merge(
        [Proposal((5, 6), (-1, 0), (0.5, 0.5)), Proposal((7, 5, 6), (-1, -1, 1), (0.1, 0.2, 0.3), expanded=(1,))]
    )
    assert merged.tokens == (5, 6, 7)
    assert merged.expanded == (0,)


def test_the_first_chain_takes_the_first_child_each_time() -> None:
    assert first_chain(Proposal((1, 2, 3, 4, 5), (-1, -1, 0, 0, 2), (0.1,) * 5)) == [1, 3, 5]
    assert first_chain(Proposal()) == []
