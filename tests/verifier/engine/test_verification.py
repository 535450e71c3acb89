"""Verification at crafted logits: acceptance, path-dependent parameters, finish reasons, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from msgspec.structs import replace

from edgedraft.sampling.sampler import sample_rows
from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from tests.support import toy_model
from verifier.engine import grammar as grammar_module
from verifier.engine.grammar import GrammarCache, start_constraint
from verifier.engine.interface import Request
from verifier.engine.verification import Verification, compute_logprobs

GREEDY = Sampling(temperature=0)
VOCAB = 10


def verification(
    sampling: Sampling = GREEDY, max_tokens: int = 100, eos: Sequence[int] = (), logprobs: int = -1
) -> Verification:
    request = Request(1, (0,), sampling, max_tokens, frozenset(eos), logprobs=logprobs)
    return Verification(request, start_constraint(request, GrammarCache(toy_model.card())))


def favouring(*tokens: int, vocab: int = VOCAB) -> torch.Tensor:
    """Logits [rows, vocab] whose argmax at row i is tokens[i]."""
    logits = torch.zeros(len(tokens), vocab)
    logits[range(len(tokens)), list(tokens)] = 5.0
    return logits


def ids(text: str) -> tuple[int, ...]:
    return tuple(toy_model.TOKENIZER.encode(text, add_special_tokens=False).ids)


def test_without_a_draft_one_token_is_sampled() -> None:
    result = verification().verify(favouring(3), 0, EMPTY_DRAFT)
    assert (result.tokens, result.path, result.finish) == ((3,), (), None)


def test_a_chain_is_accepted_up_to_the_first_mismatch_and_one_token_follows() -> None:
    result = verification().verify(favouring(3, 4, 5, 6), 0, DraftSlice.chain([3, 4, 9]))
    assert (result.tokens, result.path) == ((3, 4, 5), (0, 1))


def test_in_a_tree_the_path_of_sampled_tokens_is_accepted() -> None:
    # 1 and 3 hang from the text, 2 and 4 from 3; rows follow the text, then nodes in order.
    draft = DraftSlice((1, 3, 2, 4), (-1, -1, 1, 1), (0, 0, 0, 0), (1, 1, 2, 2))
    result = verification().verify(favouring(3, 9, 4, 9, 7), 0, draft)
    assert (result.tokens, result.path) == ((3, 4, 7), (1, 3))


@pytest.mark.parametrize("first", [0, 17])
def test_sampled_tokens_are_those_of_plain_sampling_at_the_same_output_indices(first: int) -> None:
    sampling = Sampling(temperature=1.0, seed=5)
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(2))
    expected = [sample_rows(logits[row : row + 1], sampling, [first + row])[0] for row in range(6)]
    result = verification(sampling).verify(logits, first, DraftSlice.chain(expected[:5]))
    assert result.tokens == tuple(expected)


def test_penalties_count_the_tokens_of_the_path() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3], logits[0, 4] = 2.0, 1.5
    sampling = replace(GREEDY, frequency_penalty=1.0)
    same_logits = logits.expand(4, VOCAB)
    result = verification(sampling).verify(same_logits, 0, DraftSlice.chain([3, 4, 3]))
    assert result.tokens == (3, 4, 3, 4), "2.0, then 1.5 against 1.0, then 1.0 against 0.5, then 0.5 against 0.0"
    assert verification(sampling).verify(same_logits, 0, DraftSlice.chain([3, 3, 3])).tokens == (3, 4)


def test_penalties_count_the_tokens_of_earlier_steps() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3], logits[0, 4] = 2.0, 1.5
    stateful = verification(replace(GREEDY, presence_penalty=1.0))
    assert stateful.verify(logits, 0, EMPTY_DRAFT).tokens == (3,)
    assert stateful.verify(logits, 1, EMPTY_DRAFT).tokens == (4,)


def test_a_grammar_restricts_each_node_of_the_path_and_ends_the_text() -> None:
    a, b, x = ids("a") + ids("b") + ids("x")
    constrained = verification(replace(GREEDY, grammar='start: "ab"'))
    logits = favouring(x, x, x, vocab=toy_model.VOCAB_SIZE)  # the target alone would write x
    result = constrained.verify(logits, 0, DraftSlice.chain([a, b]))
    assert (result.tokens, result.path, result.finish) == ((a, b), (0, 1), "stop")


def test_a_node_that_the_grammar_forbids_is_not_accepted() -> None:
    a, x = ids("a") + ids("x")
    constrained = verification(replace(GREEDY, grammar='start: "ab"'))
    result = constrained.verify(favouring(x, x, vocab=toy_model.VOCAB_SIZE), 0, DraftSlice.chain([x]))
    assert (result.tokens, result.path, result.finish) == ((a,), (), None)


def test_a_grammar_that_fails_is_a_failure_and_not_the_end_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    constrained = verification(replace(GREEDY, grammar='start: "ab"'))
    monkeypatch.setattr(grammar_module, "TOKEN_SECONDS", -1.0)
    result = constrained.verify(favouring(1, vocab=toy_model.VOCAB_SIZE), 0, EMPTY_DRAFT)
    assert (result.tokens, result.finish) == ((), None)
    assert result.failure


def test_an_eos_inside_the_draft_ends_the_text_there() -> None:
    result = verification(eos=[4]).verify(favouring(3, 4, 5, 6), 0, DraftSlice.chain([3, 4, 5]))
    assert (result.tokens, result.path, result.finish) == ((3, 4), (0, 1), "stop")


def test_max_tokens_inside_the_draft_ends_the_text_there() -> None:
    result = verification(max_tokens=12).verify(favouring(3, 4, 5, 6), 10, DraftSlice.chain([3, 4, 5]))
    assert (result.tokens, result.finish) == ((3, 4), "length")


def test_an_eos_as_the_last_allowed_token_is_a_stop() -> None:
    assert verification(max_tokens=1, eos=[3]).verify(favouring(3), 0, EMPTY_DRAFT).finish == "stop"


def test_logprobs_are_the_models_own_at_the_rows_of_the_path() -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(4))
    sampling = replace(GREEDY, logit_bias={2: 100.0})
    draft = DraftSlice((7, 2, 2), (-1, -1, 1), (0, 0, 0), (1, 1, 2))
    result = verification(sampling, logprobs=3).verify(logits, 0, draft)
    assert (result.tokens, result.path) == ((2, 2, 2), (1, 2))
    for row, entry in zip((0, 2, 3), result.logprobs, strict=True):
        expected = logits[row].log_softmax(-1)
        assert entry.logprob == pytest.approx(float(expected[2]))
        assert entry.tokens == expected.topk(3).indices.tolist()
        assert entry.logprobs == pytest.approx(expected.topk(3).values.tolist())


def test_logprobs_are_computed_only_on_request_and_with_as_many_alternatives_as_there_are() -> None:
    assert verification().verify(favouring(3), 0, EMPTY_DRAFT).logprobs == ()
    assert [len(entry.tokens) for entry in compute_logprobs(torch.zeros(2, 4), [1, 2], 9)] == [4, 4]
    assert compute_logprobs(torch.zeros(0, 4), [], 2) == ()
