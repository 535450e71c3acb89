"""Sampling parameters, log-probabilities and predictions of chats, with an agent and without."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from edgedraft.wire import Sampling
from gateway.api.chat.request import ChatRequest
from tests.gateway.api.test_chat import USAGE, chunks, complete, user
from tests.gateway.conftest import Gateway
from tests.gateway.http.test_bad_requests import CHAT, error_of, post
from tests.support import openai_shapes, toy_model
from tests.support.scripted_verifier import ScriptedVerifier

LETTER = toy_model.TOKENIZER.encode("x", add_special_tokens=False).ids[0]


@contextlib.asynccontextmanager
async def maybe_agent(gateway: Gateway, edge: bool):
    if edge:
        async with gateway.agent(wrong_every=5):
            yield
    else:
        yield


async def test_penalties_and_bias_reach_the_verifier(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    await complete(
        gateway,
        messages=user("say a"),
        seed=7,
        frequency_penalty=-2,
        presence_penalty=0.5,
        repetition_penalty=1.2,
        logit_bias={"5": 1, "256": -100},
    )
    assert verifier.opened[0].sampling == Sampling(
        seed=7, frequency_penalty=-2, presence_penalty=0.5, repetition_penalty=1.2, logit_bias={5: 1, 256: -100}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"frequency_penalty": 1.5},
        {"presence_penalty": -0.5},
        {"repetition_penalty": 1.3},
        {"logit_bias": {str(LETTER): 100}},
        {"temperature": 0},
        {"top_k": 5, "min_p": 0.1, "top_p": 0.8},
        {"logprobs": True, "top_logprobs": 3},
        {"prediction": {"type": "content", "content": "wrong"}},
        {"n": 2},
        {"stop": ["a", "b"]},
    ],
)
async def test_an_agent_changes_no_answer(gateway: Gateway, change: dict[str, Any]) -> None:
    body = {"messages": user("babble"), "max_tokens": 40, "seed": 3} | change
    alone = await complete(gateway, **body)
    assert alone["edgedraft"]["mode"] == "datacenter"
    async with gateway.agent(wrong_every=5) as agent:
        edge = await complete(gateway, **body)
        assert agent.opened
    assert edge["choices"] == alone["choices"]
    assert edge["usage"] == alone["usage"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {str(toy_model.VOCAB_SIZE): 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
        ({"logit_bias": {"9" * 5000: None}}, "logit_bias." + "9" * 189),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": None}}, "logit_bias.5"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"repetition_penalty": 1e-9}, "repetition_penalty"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"service_tier": 5}, "service_tier"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"prediction": {"type": "audio", "content": "a"}}, "prediction.type"),
        ({"prediction": {"type": "content", "content": [{"type": "image_url"}]}}, "prediction.content.0"),
        ({"prediction": {"type": "content", "content": "a"}, "n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ],
)
async def test_bad_values_are_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    response = await post(gateway, CHAT | change)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


# What OpenAI's chats may carry that changes no answer here, or only how another service keeps or serves it.
IGNORED = {
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "safety_identifier": "me",
    "store": True,
    "user": "me",
    "verbosity": "low",
}


async def test_every_parameter_of_openai_is_served_refused_or_known_to_change_nothing(gateway: Gateway) -> None:
    known = {name for name in CompletionCreateParamsBase.__annotations__ if name not in ChatRequest.model_fields}
    refused = set()
    for name in known - set(IGNORED):
        response = await post(gateway, CHAT | {name: {"x": "y"}})
        assert response.status_code == 400
        assert error_of(response)["param"] == name
        refused.add(name)
    assert known == refused | set(IGNORED) & known
    plain = await complete(gateway, messages=user("say a"))
    assert (await complete(gateway, messages=user("say a"), **IGNORED))["choices"] == plain["choices"]


async def test_service_tier_is_told_where_it_was_asked_for(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user("say a"), service_tier="flex")
    assert got["service_tier"] == "default"
    for chunk in await chunks(gateway, messages=user("say a"), service_tier="auto"):
        assert chunk["service_tier"] == "default"
    assert "service_tier" not in await complete(gateway, messages=user("say a"))


@pytest.mark.parametrize("edge", [False, True])
async def test_logprobs_are_the_verifiers_token_by_token(gateway: Gateway, edge: bool) -> None:
    async with maybe_agent(gateway, edge):
        got = await complete(gateway, messages=user("say naïve 😀"), logprobs=True, top_logprobs=2)
    headers = got.pop("headers")
    assert headers["x-edgedraft-mode"] == ("edge" if edge else "datacenter")
    openai_shapes.complete_chat(got)
    (choice,) = got["choices"]
    assert choice["logprobs"]["refusal"] is None
    entries = choice["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == "naïve 😀".encode()
    assert [entry["token"] for entry in entries[:4]] == ["n", "a", "\\xc3", "\\xaf"]
    assert len(entries) == got["usage"]["completion_tokens"] - 1, "the end of the answer is no part of it"
    tokens = toy_model.TOKENIZER.encode("naïve 😀", add_special_tokens=False).ids
    for place, entry in enumerate(entries):
        expected = toy_model.logprobs(toy_model.chat_prompt(("user", "say naïve 😀")), tokens[:place], tokens[place], 2)
        assert entry["logprob"] == expected.logprob
        assert [top["logprob"] for top in entry["top_logprobs"]] == expected.logprobs
        assert entry["top_logprobs"][0]["bytes"] == entry["bytes"]


async def test_logprobs_without_alternatives(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user("say ab"), logprobs=True)
    assert [entry["top_logprobs"] for entry in got["choices"][0]["logprobs"]["content"]] == [[], []]
    got = await complete(gateway, messages=user("say ab"), logprobs=False)
    assert got["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("stop", [None, "e f", "😀", " thrice"])
async def test_streamed_logprobs_are_those_of_the_whole_answer(gateway: Gateway, edge: bool, stop: str | None) -> None:
    body = {"messages": user("say one 漢字 three f 😀 end"), "logprobs": True, "top_logprobs": 1, "stop": stop}
    async with maybe_agent(gateway, edge):
        answer = await complete(gateway, **body)
        streamed = await chunks(gateway, **body, stream_options=USAGE)
    for chunk in streamed:
        openai_shapes.chat_chunk(chunk)
    entries = []
    for chunk in streamed[:-2]:
        (choice,) = chunk["choices"]
        entries += choice["logprobs"]["content"]
    assert streamed[-2]["choices"][0]["logprobs"] is None
    assert entries == answer["choices"][0]["logprobs"]["content"]
    text = answer["choices"][0]["message"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == text.encode(), "trimmed at the stop"


async def test_logprobs_of_a_character_that_was_cut_off(gateway: Gateway) -> None:
    body = {"messages": user("say 漢"), "logprobs": True, "max_tokens": 2}
    got = await complete(gateway, **body)
    assert got["choices"][0]["message"]["content"] == ""
    assert [entry["bytes"] for entry in got["choices"][0]["logprobs"]["content"]] == [[0xE6], [0xBC]]
    first, finish = await chunks(gateway, **body)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(first["choices"][0]["logprobs"]["content"]) == 2
    assert finish["choices"][0]["finish_reason"] == "length"


async def test_a_prediction_reaches_the_verifier_in_tokens(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    for content in ("naïve text", [{"type": "text", "text": "naïve"}, {"type": "text", "text": " text"}]):
        await complete(gateway, messages=user("say a"), prediction={"type": "content", "content": content})
    expected = toy_model.TOKENIZER.encode("naïve text", add_special_tokens=False).ids
    assert [opened.prediction for opened in verifier.opened] == [expected, expected]
    prediction = {"type": "content", "content": "x" * 10_000}
    await complete(gateway, messages=user("say a"), prediction=prediction)
    assert len(verifier.opened[2].prediction) == 2048, "no longer than the context"


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_tells_what_became_of_a_prediction(gateway: Gateway, stream: bool) -> None:
    said = "one two three four five six"
    for predicted, accepted in ((said, len(said)), (said + " seven", len(said)), ("XYZ", 0)):
        body = {"messages": user(f"say {said}"), "prediction": {"type": "content", "content": predicted}}
        if stream:
            usage = (await chunks(gateway, **body, stream_options=USAGE))[-1]["usage"]
        else:
            usage = (await complete(gateway, **body))["usage"]
        details = usage["completion_tokens_details"]
        assert details["accepted_prediction_tokens"] == accepted
        assert details["rejected_prediction_tokens"] == len(predicted) - accepted
        assert usage["completion_tokens"] == len(said) + 1


async def test_logprobs_are_asked_of_the_verifier_only_on_request(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    await complete(gateway, messages=user("say a"))
    await complete(gateway, messages=user("say a"), logprobs=True)
    await complete(gateway, messages=user("say a"), logprobs=True, top_logprobs=20)
    assert [opened.logprobs for opened in verifier.opened] == [-1, 0, 20]
