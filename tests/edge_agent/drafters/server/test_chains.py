"""How long a chain is asked for, and what of a chain is proposed, by hand-made places."""

from __future__ import annotations

import math

import pytest

from edge_agent.drafters.interface import DraftRequest, first_chain
from edge_agent.drafters.proposals.token_counts import SessionTokenCounts
from edge_agent.drafters.server.api import Place
from edge_agent.drafters.server.chains import MAX_CALL_SECONDS, MAX_CHAIN, PROBE_CALLS, ChainLength, propose_chain
from edge_agent.drafters.server.vocabulary import token_texts
from edgedraft.wire import Sampling

VOCAB = 100


def measured(call: float, token: float, worth: float) -> ChainLength:
    """Of a server that takes `call` seconds and `token` more for each token."""
    length = ChainLength()
    for _ in range(20 * PROBE_CALLS):
        k = length.choose(greedy=True)
        length.record_call(k, call + k * token)
        length.record_place(True, worth)
    return length


def test_a_server_that_was_busy_is_measured_anew() -> None:
    length = measured(0.002, MAX_CALL_SECONDS, 0.9)
    assert length.choose(greedy=True) == 1
    for _ in range(20 * PROBE_CALLS):
        k = length.choose(greedy=True)
        length.record_call(k, 0.02 + k * 0.001)
    assert length.choose(greedy=True) > 8


def test_a_chain_is_longer_where_a_call_costs_more_and_where_tokens_are_likelier() -> None:
    assert ChainLength().choose(greedy=True) == 1, "nothing is known yet"
    assert measured(0.0001, 0.01, 0.5).choose(greedy=True) == 1, "a call costs next to nothing"
    cheap, dear = (measured(call, 0.002, 0.8).choose(greedy=True) for call in (0.002, 0.02))
    assert 1 < cheap < dear
    assert measured(0.02, 0.002, 0.3).choose(greedy=True) < dear
    assert measured(0.02, 0.0001, 0.99).choose(greedy=True) == MAX_CHAIN
    assert measured(0.001, MAX_CALL_SECONDS, 0.99).choose(greedy=True) == 1, "commits do not wait that long"


def test_sampled_chains_have_a_length_of_their_own() -> None:
    length = measured(0.02, 0.002, 0.9)
    for _ in range(100):
        length.record_place(False, 0.05)
    assert length.choose(greedy=False) < length.choose(greedy=True)


def place(token: int, *others: int) -> Place:
    likely = [(token, math.log(0.7)), *((other, math.log(0.2 / len(others))) for other in others)]
    return Place(token, tuple(likely))


def request(sampling: Sampling) -> DraftRequest:
    return DraftRequest(1, [5, 6], 2, 0, sampling)


def test_a_greedy_chain_is_a_tree_with_siblings_at_each_place() -> None:
    chain = [place(10, 11), place(20), place(30, 31, 32)]
    proposal, worth = propose_chain(chain, request(Sampling(temperature=0.0)), VOCAB, SessionTokenCounts())
    assert proposal.tokens == (10, 11, 20, 30, 31, 32)
    assert proposal.parents == (-1, -1, 0, 2, 2, 2)
    assert proposal.expanded == (0, 2)
    assert worth == pytest.approx([0.7] * 3)


def test_a_sampled_chain_ends_where_the_noise_chooses_another_token() -> None:
    chain = [place(10, 11), place(20, 21), place(30, 31)]
    lengths = set()
    for seed in range(40):
        sampling = Sampling(temperature=1.5, seed=seed)
        proposal, worth = propose_chain(chain, request(sampling), VOCAB, SessionTokenCounts())
        path = first_chain(proposal)
        server_tokens = [place.token for place in chain]
        assert path[:-1] == server_tokens[: len(path) - 1]
        assert (worth[-1] > 0) == (path[-1] == server_tokens[len(path) - 1])
        lengths.add(len(path))
    assert lengths == {1, 2, 3}


def test_the_chain_ends_where_the_targets_vocabulary_does() -> None:
    chain = [place(10), place(VOCAB, 21), place(30)]
    proposal, _ = propose_chain(chain, request(Sampling(temperature=0.0)), VOCAB, SessionTokenCounts())
    assert proposal.tokens == (10, 21)
    assert (
        propose_chain([place(VOCAB)], request(Sampling(temperature=0.0)), VOCAB, SessionTokenCounts())[0].tokens == ()
    )


def test_tokens_are_read_as_their_vocabulary_writes_them() -> None:
    byte_level = {0: "Ġhello", 1: "Ã©", 2: "ĠĠ", 3: "Ã", 4: "<|end|>", 5: "Ċ", 6: "a b"}
    assert token_texts(byte_level) == {0: " hello", 1: "é", 2: "  ", 4: "<|end|>", 5: "\n", 6: "a b"}
    pieces = {0: "▁hello", 1: "é", 2: "▁▁", 3: "<0xC3>", 4: "</s>"}
    assert token_texts(pieces) == {0: " hello", 1: "é", 2: "  ", 4: "</s>"}
