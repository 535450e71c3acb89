"""Tokens per verification of a chain of drafts."""

from __future__ import annotations

from edge_agent.distill.evaluate import simulate_chain


def test_a_chain_takes_its_run_of_hits_and_one_token_more() -> None:
    assert simulate_chain([False] * 4) == (4, 4)
    assert simulate_chain([True] * 12) == (12, 2)
    assert simulate_chain([True, True, False, True]) == (4, 2)
