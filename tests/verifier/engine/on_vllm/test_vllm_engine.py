"""The vLLM engine commits the embedded engine's text, whatever is drafted, requested, cancelled or evicted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edgedraft.tree import EMPTY_DRAFT, DraftSlice
from edgedraft.wire import Sampling
from tests.verifier.engine.on_vllm.conftest import KV_TOKENS, NODES, SESSIONS, Both, finish, request
from tests.verifier.engine.test_transformers_engine import tree_for
from verifier.engine.interface import Overloaded, Request, RequestRejected, ScheduledSession

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.timeout(600)]

GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.01, seed=11)
PENALISED = Sampling(
    temperature=0.9,
    seed=4,
    frequency_penalty=0.6,
    presence_penalty=0.3,
    repetition_penalty=1.2,
    logit_bias={30: -100.0},
)
LETTERS = Sampling(temperature=0.9, seed=2, grammar="start: /[a-z ]{4,60}/")


def prompt_of(seed: int, length: int = 20) -> list[int]:
    return random.Random(seed).choices(range(300, 40000), k=length)


def drafts_of(right: dict[int, list[int]], seed: int = 5) -> Callable[[int, list[int]], DraftSlice]:
    """Drafts that follow the right text for a while, with wrong siblings and a wrong tail."""
    dice = random.Random(seed)
    return lambda key, text: tree_for(right[key][len(text) :], dice)


@pytest.mark.parametrize(
    "sampling", [GREEDY, SAMPLED, PENALISED, LETTERS], ids=["greedy", "sampled", "held", "letters"]
)
def test_text_with_drafts_is_the_embedded_engines(both: Both, sampling: Sampling) -> None:
    asked = [request(key, prompt_of(key, 5 + 9 * key), sampling) for key in range(1, 5)]
    right, _ = finish(both.embedded, asked)
    resumed = [
        request(key, prompt_of(key, 5 + 9 * key), sampling, committed=tuple(right[key][:5]) if key == 4 else ())
        for key in range(1, 5)
    ]
    texts, seen = finish(both.vllm, resumed, drafts_of(right))
    assert texts == right
    assert max(made.accepted for made in seen) >= 3, "drafts were accepted"
    assert any(made.depth > made.accepted for made in seen), "and rejected"
    assert both.vllm.capacity().free_kv_tokens == KV_TOKENS


def test_plain_text_is_the_embedded_engines(both: Both) -> None:
    asked = [request(key, prompt_of(key), SAMPLED) for key in (1, 2)]
    assert finish(both.vllm, asked)[0] == finish(both.embedded, asked)[0]


def test_sessions_that_are_not_in_a_step_keep_their_blocks(both: Both) -> None:
    asked = [request(key, prompt_of(key), GREEDY) for key in (1, 2)]
    right, _ = finish(both.embedded, asked)
    for one in asked:
        both.vllm.open(one)
    texts: dict[int, list[int]] = {1: [], 2: []}
    ended: set[int] = set()
    for turn in range(200):
        chosen = [key for key in (1, 2) if key not in ended and (turn // 5) % 2 == key % 2]
        for made in both.vllm.step([ScheduledSession(key, 64) for key in chosen]) if chosen else ():
            assert made.session in chosen
            texts[made.session].extend(made.tokens)
            if made.finish:
                ended.add(made.session)
                both.vllm.close(made.session)
    assert texts == right


def test_a_full_cache_evicts_and_loses_no_token(both: Both) -> None:
    asked = [request(key, prompt_of(key, 300), SAMPLED, tokens=100) for key in (1, 2, 3)]
    asked.append(request(4, prompt_of(4, 100), SAMPLED, tokens=100))
    right, _ = finish(both.embedded, asked)
    texts, seen = finish(both.vllm, asked, drafts_of(right))
    assert texts == right
    num_uncomputed = [made.num_uncomputed for made in seen if not made.tokens]
    assert max(num_uncomputed) > 250, "a session was evicted after its prompt was computed"
    assert both.vllm.capacity().free_kv_tokens == KV_TOKENS


def test_finish_reasons_are_reported(both: Both) -> None:
    plain = request(1, prompt_of(1), GREEDY)
    right = finish(both.embedded, [plain])[0][1]
    eos = right[6]
    at = right.index(eos)
    ending = Request(2, plain.prompt, GREEDY, 24, frozenset({eos}))
    texts, seen = finish(both.vllm, [plain, ending], drafts_of({1: right, 2: right}))
    assert texts == {1: right, 2: right[: at + 1]}
    assert {made.session: made.finish for made in seen if made.finish} == {1: "length", 2: "stop"}


def test_a_grammar_that_ends_ends_its_session(both: Both) -> None:
    sampling = Sampling(temperature=0.9, seed=3, grammar='start: "yes" | "no"')
    asked = [request(1, prompt_of(1), sampling)]
    right, expected = finish(both.embedded, asked)
    texts, seen = finish(both.vllm, asked)
    assert texts == right
    assert (seen[-1].finish, expected[-1].finish) == ("stop", "stop")


def test_a_grammar_that_fails_ends_its_own_session_alone(both: Both) -> None:
    alternatives = " | ".join("s " * length for length in range(2, 9))
    ambiguous = Sampling(temperature=0, grammar=f'start: s\ns: {alternatives}| /[a-z]/ | ""')
    other = request(2, prompt_of(2), GREEDY)
    right = finish(both.embedded, [other])[0][2]
    texts, seen = finish(both.vllm, [request(1, prompt_of(1), ambiguous, tokens=80), other])
    assert texts[2] == right
    assert len(texts[1]) < 80
    assert [made.finish for made in seen if made.session == 1][-1] == "length"


def test_log_probabilities_are_the_models_own(both: Both) -> None:
    asked = [request(1, prompt_of(1), SAMPLED, logprobs=3), request(2, prompt_of(1), SAMPLED, logprobs=0)]
    asked.append(request(3, prompt_of(2), SAMPLED))
    right, expected = finish(both.embedded, asked)
    texts, seen = finish(both.vllm, asked, drafts_of(right))
    assert texts == right
    for key, entries in ((1, 24), (2, 24), (3, 0)):
        mine = [entry for made in seen if made.session == key for entry in made.logprobs]
        theirs = [entry for made in expected if made.session == key for entry in made.logprobs]
        assert len(mine) == entries
        assert [entry.tokens for entry in mine] == [entry.tokens for entry in theirs]
        assert [entry.logprob for entry in mine] == pytest.approx([entry.logprob for entry in theirs], abs=1e-3)
        for one, other in zip(mine, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_a_prefix_is_shared_within_a_salt_only(both: Both) -> None:
    prompt = prompt_of(77, 300)
    finish(both.vllm, [request(1, prompt, GREEDY, tokens=2, salt="a")])
    assert both.vllm.open(request(2, prompt, GREEDY, salt="a")) < 60
    assert both.vllm.open(request(3, prompt, GREEDY, salt="b")) == 300
    both.vllm.close(2)
    both.vllm.close(3)
    assert both.vllm.capacity().free_kv_tokens == KV_TOKENS


def test_cancelled_sessions_leave_nothing(both: Both) -> None:
    for key in range(1, 4):
        both.vllm.open(request(key, prompt_of(key, 100), GREEDY))
    both.vllm.step([ScheduledSession(1, 40), ScheduledSession(2, 100)])
    assert both.vllm.capacity().free_kv_tokens < KV_TOKENS
    for key in range(1, 4):
        both.vllm.close(key)
    both.vllm.close(99)
    assert both.vllm.capacity().free_kv_tokens == KV_TOKENS
    assert (
        finish(both.vllm, [request(4, prompt_of(1), GREEDY)])[0]
        == finish(both.embedded, [request(4, prompt_of(1), GREEDY)])[0]
    )


def test_requests_beyond_capacity_or_bounds_raise(both: Both) -> None:
    both.vllm.open(request(1, prompt_of(1, 700), GREEDY))
    with pytest.raises(Overloaded, match="KV cache"):
        both.vllm.open(request(2, prompt_of(2, 700), GREEDY))
    both.vllm.close(1)
    for key in range(SESSIONS):
        both.vllm.open(request(10 + key, prompt_of(key), GREEDY))
    with pytest.raises(Overloaded, match="sessions"):
        both.vllm.open(request(99, prompt_of(2), GREEDY))
    for key in range(SESSIONS):
        both.vllm.close(10 + key)
    for wrong, message in (
        (request(1, (1, 10**6), GREEDY), "vocabulary"),
        (request(1, prompt_of(1, 1270), GREEDY), "exceed"),
        (request(1, (), GREEDY), "prompt"),
        (request(1, (1, 2), Sampling(grammar="no grammar")), "Invalid grammar"),
    ):
        with pytest.raises(RequestRejected, match=message):
            both.vllm.validate(wrong)


def test_long_drafts_are_truncated_to_the_speculative_tokens_of_vllm(both: Both) -> None:
    asked = [request(1, prompt_of(3), GREEDY)]
    right, _ = finish(both.embedded, asked)

    def chain(key: int, text: list[int]) -> DraftSlice:
        ahead = right[1][len(text) : len(text) + 2 * NODES]
        return DraftSlice.chain(ahead) if text else EMPTY_DRAFT

    texts, seen = finish(both.vllm, asked, chain)
    assert texts == right
    assert max(made.nodes for made in seen) == NODES
    assert max(len(made.tokens) for made in seen) == NODES + 1
