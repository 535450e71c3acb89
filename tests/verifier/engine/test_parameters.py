"""Every sampling parameter commits the reference text, whatever is drafted, evicted or resumed from elsewhere."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from msgspec.structs import asdict
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from edgedraft.grammar.service import GrammarService
from edgedraft.runtime.packed_model import PackedModel
from edgedraft.tree import DraftSlice
from edgedraft.wire import ModelCard, Sampling
from edgedraft.workers.limits import WorkerLimits
from tests.edgedraft.definition import reference_sample
from tests.support.tiny_llama import tiny_llama
from tests.verifier.engine.test_transformers_engine import run, tree_for
from verifier.engine import grammar as grammar_module
from verifier.engine.grammar import GrammarCache
from verifier.engine.interface import Request, RequestRejected, ScheduledSession
from verifier.engine.transformers_engine import TransformersEngine
from verifier.engine.verification import GRAMMAR_FAILED

VOCAB = 300  # of the model; the tokenizer has fewer tokens
TOKENS = 24

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
JSON = LLMatcher.grammar_from_json_schema(SCHEMA, overrides={"whitespace_flexible": False})
LETTERS = "start: /[a-h]{2,6}( [a-h]{2,6})*/"


def _tokenizer() -> Tokenizer:
    """Bytes, a few words of JSON, and an end."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    merges = [("t", "r"), ("tr", "u"), ("tru", "e"), ('"', ":"), ("a", "b"), ("ab", "c")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    tokenizer.decoder = ByteLevelDecoder()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


TOKENIZER = _tokenizer()
(END,) = TOKENIZER.encode("<end>").ids
CARD = ModelCard(
    name="tiny",
    fingerprint="",
    vocab_size=VOCAB,
    context_length=512,
    eos=(END,),
    tokenizer=zlib.compress(TOKENIZER.to_str().encode()),
    chat_template="",
)
GRAMMARS = GrammarCache(CARD)
LL_TOKENIZER = LLTokenizer(TOKENIZER.to_str(), eos_token=[END])


@lru_cache
def model() -> torch.nn.Module:
    return tiny_llama(vocab_size=VOCAB)


def engine_of(kv_tokens: int = 2048, grammars: GrammarCache | None = GRAMMARS) -> TransformersEngine:
    return TransformersEngine(PackedModel(tiny_llama(vocab_size=VOCAB), kv_tokens), VOCAB, 512, 64, grammars)


def prompt_of(seed: int, length: int = 20) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def allowed_after(grammar: str, output: Sequence[int]) -> np.ndarray:
    """The mask of a new matcher that reads the output from its beginning."""
    matcher = LLMatcher(LL_TOKENIZER, grammar)
    assert not output or matcher.consume_tokens(list(output)), matcher.get_error()
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), count=VOCAB, bitorder="little") > 0


def is_complete(grammar: str, output: Sequence[int]) -> bool:
    matcher = LLMatcher(LL_TOKENIZER, grammar)
    matcher.consume_tokens(list(output))
    return matcher.is_stopped()


@torch.inference_mode()
def reference(
    prompt: Sequence[int], sampling: Sampling, tokens: int = TOKENS, eos: frozenset[int] = frozenset()
) -> list[int]:
    """The text by definition: the plain model over the complete text for every token."""
    output: list[int] = []
    while len(output) < tokens:
        logits = model()(torch.tensor([[*prompt, *output]])).logits[0, -1].numpy()
        allowed = allowed_after(sampling.grammar, output) if sampling.grammar else None
        if len(output) < sampling.min_tokens:
            going_on = np.ones(VOCAB, dtype=bool) if allowed is None else allowed.copy()
            going_on[sorted(eos)] = False
            allowed = going_on if going_on.any() else allowed
        output.append(reference_sample(logits, sampling, len(output), prompt, output, allowed))
        if sampling.grammar and is_complete(sampling.grammar, output):
            break
        if output[-1] in eos:
            break
    return output


ALONE: dict[str, dict] = {
    "frequency": {"frequency_penalty": 0.9},
    "presence": {"presence_penalty": 1.5},
    "repetition": {"repetition_penalty": 1.4},
    "encouraged": {"repetition_penalty": 0.7, "frequency_penalty": -0.4},
    "bias": {"logit_bias": {7: 3.0, 30: -100.0, 299: 2.0}},
    "json": {"grammar": JSON},
    "letters": {"grammar": LETTERS},
}
MIXED = {
    "frequency_penalty": 0.5,
    "presence_penalty": 0.4,
    "repetition_penalty": 1.2,
    "logit_bias": {7: 3.0, 68: 1.5},
    "grammar": LETTERS,
}
CASES = {
    f"{name} {kind}": Sampling(**parameters, **how)
    for name, parameters in (ALONE | {"mixed": MIXED}).items()
    for kind, how in {
        "greedy": {"temperature": 0},
        "sampled": {"temperature": 0.8, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "seed": 11},
    }.items()
}


@pytest.mark.parametrize("case", CASES)
def test_drafts_eviction_and_a_change_of_engine_leave_the_text_as_it_is(case: str) -> None:
    sampling, dice = CASES[case], random.Random(5)
    prompts = {key: prompt_of(key, 12 + 5 * key) for key in (1, 2, 3)}
    right = {key: reference(prompt, sampling) for key, prompt in prompts.items()}
    resumed = {3: right[3][: len(right[3]) // 2]}  # committed by another engine
    engine = engine_of(kv_tokens=112)
    for key, prompt in prompts.items():
        committed = tuple(resumed.get(key, ()))
        engine.open(Request(key, tuple(prompt), sampling, TOKENS, frozenset(), committed))
    texts = {key: list(resumed.get(key, ())) for key in prompts}

    def plan(key: int, text: list[int]) -> ScheduledSession:
        return ScheduledSession(key, 64, tree_for(right[key][len(text) :], dice) if key != 1 else DraftSlice())

    seen = run(engine, texts, plan)
    assert texts == right
    assert max(made.accepted for made in seen) >= 2, "drafts were accepted"
    for key, text in right.items():
        finish = "stop" if sampling.grammar and is_complete(sampling.grammar, text) else "length"
        assert [made.finish for made in seen if made.session == key and made.finish] == [finish]


@pytest.mark.parametrize("case", ["json sampled", "mixed greedy", "bias sampled", "bias greedy", "frequency sampled"])
def test_no_end_comes_before_the_least_number_of_tokens_whatever_is_drafted(case: str) -> None:
    least, sampling, dice, prompt = 9, CASES[case], random.Random(4), prompt_of(3)
    eos = frozenset({END, *reference(prompt, sampling)[2:5]})
    likely = Sampling(**{**asdict(sampling), "logit_bias": dict.fromkeys(eos, 6.0), "min_tokens": least})
    right = reference(prompt, likely, eos=eos)
    grammar = likely.grammar
    for drafted in (False, True):
        engine = engine_of()
        engine.open(Request(1, tuple(prompt), likely, TOKENS, eos))
        texts: dict[int, list[int]] = {1: []}

        def plan(key: int, text: list[int], drafted: bool = drafted) -> ScheduledSession:
            draft = tree_for([*right, *sorted(eos)][len(text) :], dice) if drafted else DraftSlice()
            return ScheduledSession(key, 64, draft)

        run(engine, texts, plan)
        assert texts[1] == right
        if not grammar:
            assert least < len(right) < TOKENS
            assert not eos & set(right[:least])
            assert right[-1] in eos


def test_end_tokens_outside_the_vocabulary_are_no_error() -> None:
    engine = engine_of()
    sampling = Sampling(temperature=0, min_tokens=3)
    engine.open(Request(1, tuple(prompt_of(1)), sampling, 4, frozenset({END, VOCAB, -1, 2**40})))
    texts: dict[int, list[int]] = {1: []}
    run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    assert len(texts[1]) == 4 or texts[1][-1] == END


def test_an_object_of_the_schema_comes_out() -> None:
    sampling = Sampling(temperature=0.9, seed=3, grammar=JSON)
    engine = engine_of()
    texts: dict[int, list[int]] = {key: [] for key in range(1, 5)}
    for key in texts:
        engine.open(Request(key, tuple(prompt_of(key)), sampling, 200, frozenset({END})))
    seen = run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    for text in texts.values():
        made = json.loads(TOKENIZER.decode(text))
        assert set(made) == {"name", "age", "ok"}
        assert isinstance(made["age"], int)
        assert isinstance(made["ok"], bool)
    assert {made.finish for made in seen if made.finish} == {"stop"}


@pytest.mark.parametrize("eos", [frozenset(), frozenset({END})], ids=["ignored", "heeded"])
def test_a_grammar_that_may_go_on_ends_with_the_end_of_the_text(eos: frozenset[int]) -> None:
    sampling = Sampling(temperature=0, grammar=LETTERS, logit_bias={END: 100.0})
    engine = engine_of()
    engine.open(Request(1, tuple(prompt_of(1)), sampling, TOKENS, eos))
    texts: dict[int, list[int]] = {1: []}
    seen = run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    assert texts[1].index(END) == len(texts[1]) - 1
    assert seen[-1].finish == "stop"


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("start: /a(/", "unclosed group"),
        ("no grammar", "Invalid grammar"),
        (LLMatcher.grammar_from_json_schema({"type": "nothing"}), "Invalid grammar"),
        ('start: "' + "x" * 200_000, "Invalid grammar"),
    ],
)
def test_invalid_grammars_are_rejected(grammar: str, message: str) -> None:
    engine = engine_of()
    for _ in range(2):
        with pytest.raises(RequestRejected, match=message):
            engine.validate(Request(1, (1, 2), Sampling(grammar=grammar), TOKENS, frozenset()))


def test_a_grammar_that_compiles_too_long_is_rejected() -> None:
    parts = [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrst"]
    grammar = LLMatcher.grammar_from_json_schema({"allOf": parts})
    service = GrammarService(WorkerLimits(cpu_seconds=0.5))
    engine = engine_of(grammars=GrammarCache(CARD, service))
    with pytest.raises(RequestRejected, match="too much time or memory to compile"):
        engine.validate(Request(1, (1, 2), Sampling(grammar=grammar), TOKENS, frozenset()))
    engine.validate(Request(1, (1, 2), Sampling(grammar=JSON), TOKENS, frozenset()))


def test_a_grammar_that_fails_in_mid_text_ends_its_own_session_alone() -> None:
    ambiguous = "start: s\ns: " + " | ".join("s " * length for length in range(2, 9)) + '| /[a-z]/ | ""'
    engine, prompt = engine_of(), prompt_of(2)
    right = reference(prompt, Sampling(temperature=0))
    engine.open(Request(1, tuple(prompt_of(1)), Sampling(temperature=0, grammar=ambiguous), 400, frozenset()))
    engine.open(Request(2, tuple(prompt), Sampling(temperature=0), TOKENS, frozenset()))
    texts: dict[int, list[int]] = {1: [], 2: []}
    seen = run(engine, texts, lambda key, _: ScheduledSession(key, 64))
    assert texts[2] == right
    assert len(texts[1]) < 400
    assert [made.failure for made in seen if made.session == 1][-1] == GRAMMAR_FAILED
    assert not any(made.finish for made in seen if made.session == 1)


def test_a_grammar_that_is_too_slow_for_a_token_ends_and_is_rejected_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grammar_module, "TOKEN_SECONDS", -1.0)
    sampling = Sampling(temperature=0, grammar="start: /[xyz]+/")
    engine = engine_of(grammars=GrammarCache(CARD))
    engine.open(Request(1, tuple(prompt_of(1)), sampling, TOKENS, frozenset()))
    (made,) = engine.step([ScheduledSession(1, 64)])
    assert (made.tokens, made.finish, made.failure) == ((), None, GRAMMAR_FAILED)
    with pytest.raises(RequestRejected, match="too long a token"):
        engine.validate(Request(2, (1, 2), sampling, TOKENS, frozenset()))


def test_sessions_that_cannot_continue_are_rejected() -> None:
    engine = engine_of()
    sampling = Sampling(grammar='start: "ab"')
    ids = TOKENIZER.encode("ab").ids
    with pytest.raises(RequestRejected, match="nothing can follow"):
        engine.open(Request(1, (1, 2), sampling, TOKENS, frozenset(), tuple(ids)))
    with pytest.raises(RequestRejected, match="does not follow the grammar"):
        engine.open(Request(1, (1, 2), sampling, TOKENS, frozenset(), (END, END)))
    with pytest.raises(RequestRejected, match="outside the vocabulary"):
        engine.open(Request(1, (1, 2), Sampling(logit_bias={VOCAB: 1.0}), TOKENS, frozenset()))
    with pytest.raises(RequestRejected, match="not served here"):
        engine_of(grammars=None).open(Request(1, (1, 2), sampling, TOKENS, frozenset()))


@torch.inference_mode()
@pytest.mark.parametrize("case", ["mixed sampled", "frequency greedy"])
def test_log_probabilities_are_the_models_own_for_drafted_tokens_too(case: str) -> None:
    sampling, prompt = CASES[case], prompt_of(4)
    right = reference(prompt, sampling)
    engine = engine_of()
    engine.open(Request(1, tuple(prompt), sampling, TOKENS, frozenset(), logprobs=3))
    engine.open(Request(2, tuple(prompt), sampling, TOKENS, frozenset(), logprobs=0))
    engine.open(Request(3, tuple(prompt), sampling, TOKENS, frozenset()))
    texts: dict[int, list[int]] = {1: [], 2: [], 3: []}
    dice = random.Random(1)
    seen = run(engine, texts, lambda key, text: ScheduledSession(key, 64, tree_for(right[len(text) :], dice)))
    assert any(made.accepted > 1 for made in seen)
    assert texts == {1: right, 2: right, 3: right}
    entries = {key: [entry for made in seen if made.session == key for entry in made.logprobs] for key in texts}
    assert [len(entries[key]) for key in texts] == [len(right), len(right), 0]
    logits = model()(torch.tensor([[*prompt, *right]])).logits[0, len(prompt) - 1 : -1].float()
    expected = logits.log_softmax(-1)
    for row, token, entry, bare in zip(expected, right, entries[1], entries[2], strict=True):
        assert [entry.logprob, bare.logprob] == pytest.approx([row[token].item()] * 2, abs=1e-4)
        assert entry.tokens == row.topk(3).indices.tolist()
        assert entry.logprobs == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert bare.tokens == bare.logprobs == []
