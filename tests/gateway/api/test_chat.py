"""Answers as OpenAI clients want them: fields, chunks and their order, usage, choices, stops, UTF-8."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgedraft.wire import Sampling
from gateway.api.session_requests import choice_seed
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import openai_shapes, toy_model
from tests.support.scripted_verifier import ScriptedVerifier

USAGE = {"include_usage": True}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def events(gateway: Gateway, path: str = "/v1/chat/completions", **body: Any) -> list[str]:
    """The data fields of a stream, read off the socket line by line."""
    async with (
        gateway.http() as http,
        http.stream("POST", path, json={"model": "toy", "stream": True} | body) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines()]
    assert lines[1::2] == [""] * (len(lines) // 2)
    assert all(line.startswith("data: ") for line in lines[::2])
    return [line.removeprefix("data: ") for line in lines[::2]]


async def chunks(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    data = await events(gateway, **body)
    assert data[-1] == "[DONE]"
    assert data.count("[DONE]") == 1
    return [json.loads(text) for text in data[:-1]]


async def complete(gateway: Gateway, **body: Any) -> dict[str, Any]:
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", json={"model": "toy"} | body)
    assert response.status_code == 200, response.text
    return response.json() | {"headers": response.headers}


async def test_a_stream_has_the_shape_that_strict_clients_want(gateway: Gateway) -> None:
    got = await chunks(gateway, messages=user("say one two three"), stream_options=USAGE)
    for chunk in got:
        openai_shapes.chat_chunk(chunk)
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["id"], chunk["created"], chunk["model"]) == (got[0]["id"], got[0]["created"], "toy")
    *texts, finish, usage = got
    assert texts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in texts[1:])
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in texts)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in texts)
    assert all(chunk["usage"] is None for chunk in [*texts, finish])
    assert all(not {"metrics", "edgedraft"} & set(chunk) for chunk in texts)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in texts) == "one two three"
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert finish["edgedraft"]["mode"] == "datacenter"
    assert finish["edgedraft"]["verifier_steps"] == 14
    assert finish["edgedraft"]["verifier_seconds"] == pytest.approx(0.014)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 14
    assert usage["usage"]["prompt_tokens"] == len(toy_model.chat_prompt(("user", "say one two three")))
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + 14
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert usage["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    assert usage["metrics"]["speculative_decoding"]["num_spec_steps"] == 0


async def test_usage_comes_only_when_asked_for(gateway: Gateway) -> None:
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        got = await chunks(gateway, messages=user("say hi"), **options)
        assert all(chunk["choices"] and "usage" not in chunk for chunk in got)


async def test_an_answer_without_text_still_has_its_role(gateway: Gateway) -> None:
    first, finish = await chunks(gateway, messages=user("say "))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert finish["choices"][0]["finish_reason"] == "stop"


async def test_a_whole_answer(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user("say hello"), max_tokens=100)
    openai_shapes.complete_chat({k: v for k, v in got.items() if k != "headers"})
    assert got["object"] == "chat.completion"
    assert got["choices"][0]["message"] == {"role": "assistant", "content": "hello", "refusal": None}
    assert got["choices"][0]["finish_reason"] == "stop"
    assert got["usage"]["completion_tokens"] == 6
    assert got["edgedraft"]["mode"] == got["headers"]["x-edgedraft-mode"] == "datacenter"
    assert got["metrics"]["speculative_decoding"]["mean_acceptance_length"] == 1


async def test_the_openai_sdk_reads_both(gateway: Gateway) -> None:
    client = gateway.openai()
    answer = await client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "say hello"}], max_completion_tokens=3
    )
    assert answer.choices[0].message.content == "hel"
    assert answer.choices[0].finish_reason == "length"
    stream = await client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "say hello"}], stream=True
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello"


async def test_max_tokens_and_ignore_eos(gateway: Gateway) -> None:
    for limit in ({"max_tokens": 4}, {"max_completion_tokens": 4}, {"max_tokens": 9, "max_completion_tokens": 4}):
        got = await complete(gateway, messages=user("babble"), **limit)
        assert got["choices"][0]["finish_reason"] == "length"
        assert got["usage"]["completion_tokens"] == 4
        assert len(got["choices"][0]["message"]["content"]) == 4
    got = await complete(gateway, messages=user("say ab"), max_tokens=9, ignore_eos=True)
    assert got["usage"]["completion_tokens"] == 9
    assert got["choices"][0]["message"]["content"] == "ab"


async def test_choices_differ_by_seed_and_each_can_be_had_again(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    several = await complete(gateway, messages=user("babble"), max_tokens=20, n=3, seed=-5)
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert several["usage"]["completion_tokens"] == 60
    assert several["metrics"]["speculative_decoding"] is None
    assert several["edgedraft"]["verifier_steps"] == 60
    for choice, text in enumerate(texts):
        seed = choice_seed(-5 % 2**63, choice)
        again = await complete(gateway, messages=user("babble"), max_tokens=20, seed=seed)
        assert again["choices"][0]["message"]["content"] == text
    assert verifier.opened[0].sampling == Sampling(seed=-5 % 2**63)


async def test_streamed_choices_are_told_apart(gateway: Gateway) -> None:
    got = await chunks(gateway, messages=user("babble"), max_tokens=10, n=3, seed=1, stream_options=USAGE)
    answer = await complete(gateway, messages=user("babble"), max_tokens=10, n=3, seed=1)
    texts, roles, ends = ["", "", ""], [0, 0, 0], [0, 0, 0]
    for chunk in got[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        roles[choice["index"]] += "role" in choice["delta"]
        ends[choice["index"]] += choice["finish_reason"] == "length"
    assert texts == [choice["message"]["content"] for choice in answer["choices"]]
    assert roles == ends == [1, 1, 1]
    assert got[-1]["usage"]["completion_tokens"] == 30
    assert got[-1]["metrics"]["speculative_decoding"] is None


async def test_without_a_seed_answers_differ_and_at_temperature_0_they_do_not(gateway: Gateway) -> None:
    texts = [await complete(gateway, messages=user("babble"), max_tokens=20) for _ in range(3)]
    assert len({got["choices"][0]["message"]["content"] for got in texts}) == 3
    texts = [await complete(gateway, messages=user("babble"), max_tokens=20, temperature=0) for _ in range(3)]
    assert len({got["choices"][0]["message"]["content"] for got in texts}) == 1


async def test_sampling_parameters_reach_the_verifier(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    await complete(gateway, messages=user("say a"), temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=7)
    await complete(gateway, messages=user("say a"), top_p=0, top_k=-1, seed=7)
    assert verifier.opened[0].sampling == Sampling(0.5, 40, 0.9, 0.05, 7)
    assert verifier.opened[0].eos == (toy_model.EOS,)
    assert verifier.opened[1].sampling == Sampling(1.0, 0, 1e-9, 0.0, 7)
    await complete(gateway, messages=user("say a"), temperature=1e-300, seed=7)
    assert verifier.opened[2].sampling == Sampling(0.0, seed=7)


@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("stop", ["three f", ["zzz", "three f"], ["three four", "three f"]])
async def test_a_stop_string_over_token_borders_cuts_text_and_usage(gateway: Gateway, edge: bool, stop: Any) -> None:
    if not edge:
        await check_stop(gateway, stop)
        return
    async with gateway.agent():
        await check_stop(gateway, stop)


async def check_stop(gateway: Gateway, stop: Any) -> None:
    messages = user("say one two three four five six seven eight nine ten")
    got = await complete(gateway, messages=messages, stop=stop)
    assert got["choices"][0]["message"]["content"] == "one two "
    assert got["choices"][0]["finish_reason"] == "stop"
    assert got["usage"]["completion_tokens"] == len("one two three f")
    streamed = await chunks(gateway, messages=messages, stop=stop, stream_options=USAGE)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in streamed[:-1]) == "one two "
    assert streamed[-1]["usage"] == got["usage"]


async def test_a_stop_ends_the_session_at_the_verifier(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    await complete(gateway, messages=user("say one. two. three. four. five."), stop=".")
    assert verifier.cancelled == [1]
    await complete(gateway, messages=user("say one"))
    assert verifier.cancelled == [1]


async def test_what_only_looks_like_a_stop_is_sent_after_all(gateway: Gateway) -> None:
    got = await complete(gateway, messages=user("say thre thr th three"), stop="threes")
    assert got["choices"][0]["message"]["content"] == "thre thr th three"


async def test_characters_are_never_split(gateway: Gateway) -> None:
    text = "naïve 漢字 😀👩‍👩‍👧 \u2028 e\u0301 end"
    got = await chunks(gateway, messages=user(f"say {text}"))
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in got]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    cut = await complete(gateway, messages=user("say 漢字"), max_tokens=4)
    assert cut["choices"][0]["message"]["content"] == "漢"
    assert cut["usage"]["completion_tokens"] == 4


async def test_messages_reach_the_template_as_it_wants_them(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "a"}]},
        {"role": "developer", "content": "be brief"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}},
        {"role": "function", "name": "f", "content": "4"},
        {"role": "system", "content": "be kind"},
    ]
    await complete(gateway, messages=messages, max_tokens=1)
    assert verifier.opened[0].prompt == toy_model.chat_prompt(
        ("system", "be brief\n\nbe kind"),
        ("user", "say a"),
        ("assistant", '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'),
        ("user", "<tool_response>\n4\n</tool_response>"),
    )


async def test_models_and_health(tmp_path, verifier: ScriptedVerifier) -> None:
    async with (
        ScriptedVerifier(card=toy_model.card(name="other/one")) as other,
        running_gateway(tmp_path, verifier, other) as gateway,
        gateway.http() as http,
    ):
        models = (await http.get("/v1/models")).json()
        assert models["object"] == "list"
        assert {model["id"] for model in models["data"]} == {"toy", "other/one"}
        one = (await http.get("/v1/models/other/one")).json()
        openai_shapes.model(one)
        assert one["object"] == "model"
        assert one["root"] == "other/one"
        assert one["max_model_len"] == 2048
        assert isinstance(one["created"], int)
        assert isinstance(one["owned_by"], str)
        assert (await http.get("/v1/models/none")).status_code == 404
        assert [model.id async for model in gateway.openai().models.list()]
        for path in ("/health", "/healthz", "/readyz"):
            assert (await http.get(path)).status_code == 200


async def test_without_a_verifier_it_is_alive_but_not_ready(tmp_path) -> None:
    nobody = ["ws://127.0.0.1:9"]
    async with running_gateway(tmp_path, verifier=nobody, open_timeout=0.1) as gateway, gateway.http() as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        response = await http.post("/v1/chat/completions", json={"model": "toy", "messages": user("hi")})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "no_verifier"


async def test_metrics_have_our_names_and_those_that_tools_read(gateway: Gateway) -> None:
    async with gateway.agent(), gateway.http() as http:
        got = await complete(gateway, messages=user("say one two three four five"))
        text = (await http.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    spec = got["metrics"]["speculative_decoding"]
    assert float(values["vllm:spec_decode_num_drafts_total"]) == spec["num_spec_steps"] > 0
    assert float(values["vllm:spec_decode_num_draft_tokens_total"]) == spec["num_draft_tokens"]
    assert float(values["vllm:spec_decode_num_accepted_tokens_total"]) == spec["num_accepted_draft_tokens"]
    assert float(values["edgedraft_gateway_agents"]) == 1
    assert float(values["edgedraft_gateway_sessions"]) == 0
    assert values['edgedraft_gateway_requests_total{mode="edge",model="toy",outcome="finished"}'] == "1.0"
    assert "_created" not in text


async def test_with_usage_every_chunk_has_the_field(gateway: Gateway) -> None:
    asked = await chunks(gateway, messages=user("say a"), stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["usage"]["completion_tokens"]
