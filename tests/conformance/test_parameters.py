"""Every sampling parameter, with and without an agent: the same text and the same log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.conformance.conftest import PROMPT, SEED, SIDES, TOKENS, Gateway, text_of
from tests.conformance.test_openai_python import MODES, asked, client

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# By name: what is asked beside the common question, and whether its text must differ from the common answer's.
PARAMETERS: dict[str, tuple[dict[str, Any], bool]] = {
    "temperature": ({"temperature": 1.3}, True),
    "top_p": ({"temperature": 1.3, "top_p": 0.3}, False),
    "top_k": ({"temperature": 1.3, "extra_body": {"top_k": 3}}, False),
    "min_p": ({"temperature": 1.3, "extra_body": {"min_p": 0.2}}, False),
    "seed": ({"temperature": 0.8, "seed": SEED + 1}, True),
    "frequency_penalty": ({"frequency_penalty": 1.9}, False),
    "presence_penalty": ({"presence_penalty": 1.9}, False),
    "repetition_penalty": ({"extra_body": {"repetition_penalty": 1.6}}, True),
    "sampled penalties": ({"temperature": 0.8, "frequency_penalty": 0.7, "presence_penalty": 0.7}, True),
    "ignore_eos": ({"extra_body": {"ignore_eos": True}}, False),
    "max_completion_tokens": ({"max_completion_tokens": 5}, True),
    "unknown": ({"extra_body": {"prompt_cache_options": {}, "verbosity": "low"}}, False),
    "metadata": ({"metadata": {"for": "tests"}, "service_tier": "default", "store": False, "user": "somebody"}, False),
}


def answer_of(gateway: Gateway, side: str, **change: Any) -> ChatCompletion:
    completion = client(gateway, side).chat.completions.create(**asked(gateway, **change))
    assert (completion.model_extra or {})["edgedraft"]["mode"] in MODES[side]
    return completion


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_gives_one_text_on_both_sides(gateway: Gateway, name: str) -> None:
    change, differs = PARAMETERS[name]
    edge, datacenter = (answer_of(gateway, side, **change).choices[0] for side in SIDES)
    assert edge.message.content == datacenter.message.content
    assert edge.finish_reason == datacenter.finish_reason
    assert edge.message.content
    if differs:
        assert edge.message.content != text_of(gateway.reference())


def test_a_bias_keeps_a_token_out_on_both_sides(gateway: Gateway) -> None:
    text = text_of(gateway.reference())
    word = next(word for word in text.split() if word.isalpha())
    tokens = gateway.post("datacenter", "tokenize", prompt=word, add_special_tokens=False).json()["tokens"]
    spaced = gateway.post("datacenter", "tokenize", prompt=f" {word}", add_special_tokens=False).json()["tokens"]
    bias = {str(token): -100 for token in (tokens[0], spaced[0])}
    texts = [answer_of(gateway, side, logit_bias=bias).choices[0].message.content or "" for side in SIDES]
    assert texts[0] == texts[1] != text
    assert word not in texts[0].split()


def test_log_probabilities_are_the_targets_on_both_sides(gateway: Gateway) -> None:
    reported = [answer_of(gateway, side, logprobs=True, top_logprobs=3).choices[0] for side in SIDES]
    entries = [choice.logprobs.content for choice in reported if choice.logprobs and choice.logprobs.content]
    assert [[entry.token for entry in content] for content in entries] == [[e.token for e in entries[0]]] * 2
    for mine, theirs in zip(*entries, strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert len(mine.top_logprobs) == 3
        assert mine.top_logprobs[0].logprob == pytest.approx(mine.logprob, abs=1e-6), "greedy is the most probable"
    joined = b"".join(bytes(entry.bytes or []) for entry in entries[0]).decode()
    assert joined == reported[0].message.content == text_of(gateway.reference())


def test_streamed_log_probabilities_are_those_of_the_whole(gateway: Gateway, side: str) -> None:
    whole = answer_of(gateway, side, temperature=0.8, logprobs=True).choices[0].logprobs
    stream = client(gateway, side).chat.completions.create(
        **asked(gateway, temperature=0.8, logprobs=True, stream=True)
    )
    choices = [chunk.choices[0] for chunk in stream if chunk.choices]
    streamed = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert whole
    assert [entry.token for entry in streamed] == [entry.token for entry in whole.content or []]


def test_a_prediction_is_counted_and_changes_no_token(gateway: Gateway, side: str) -> None:
    text = text_of(gateway.reference())
    right = answer_of(gateway, side, prediction={"type": "content", "content": text})
    wrong = answer_of(
        gateway, side, prediction={"type": "content", "content": "It was never like this at all, he said."}
    )
    assert right.choices[0].message.content == wrong.choices[0].message.content == text
    details = [answer.usage and answer.usage.completion_tokens_details for answer in (right, wrong)]
    assert details[0]
    assert (details[0].accepted_prediction_tokens or 0) > TOKENS // 2
    assert details[1]
    assert (details[1].accepted_prediction_tokens or 0) < 5


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_completions_give_one_text_on_both_sides(gateway: Gateway, temperature: float) -> None:
    question: dict[str, Any] = {
        "model": gateway.model,
        "prompt": [PROMPT, "Once upon a time"],
        "max_tokens": 12,
        "seed": SEED,
        "temperature": temperature,
        "logprobs": 2,
    }
    whole = [client(gateway, side).completions.create(**question) for side in SIDES]
    assert [choice.text for choice in whole[0].choices] == [choice.text for choice in whole[1].choices]
    assert [choice.index for choice in whole[0].choices] == [0, 1]
    logprobs = whole[0].choices[0].logprobs
    assert logprobs
    assert "".join(logprobs.tokens or []) == whole[0].choices[0].text
    texts = ["", ""]
    for chunk in client(gateway, "edge").completions.create(**question, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole[1].choices]


def test_the_best_of_several_completions_is_the_same_on_both_sides(gateway: Gateway) -> None:
    texts = [
        client(gateway, side)
        .completions.create(
            model=gateway.model, prompt=PROMPT, max_tokens=10, seed=SEED, temperature=1, best_of=3, echo=True
        )
        .choices[0]
        .text
        for side in SIDES
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith(PROMPT)
