"""Legacy completions: four kinds of prompts, echo, best_of, log-probabilities, streams; /tokenize and /detokenize."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from edgedraft.wire import Sampling
from gateway.api.session_requests import choice_seed
from tests.gateway.api.test_chat import USAGE, events, user
from tests.gateway.conftest import Gateway, running_gateway
from tests.gateway.http.test_bad_requests import error_of
from tests.support import openai_shapes, toy_model
from tests.support.scripted_verifier import ScriptedVerifier

PATH = "/v1/completions"
START = toy_model.TOKENIZER.encode(toy_model.START, add_special_tokens=False).ids[0]


def ids(text: str) -> list[int]:
    return toy_model.TOKENIZER.encode(text, add_special_tokens=False).ids


async def complete(gateway: Gateway, **body: Any) -> dict[str, Any]:
    async with gateway.http() as http:
        response = await http.post(PATH, json={"model": "toy"} | body)
    assert response.status_code == 200, response.text
    openai_shapes.completion(response.json())
    return response.json()


async def chunks(gateway: Gateway, **body: Any) -> list[dict[str, Any]]:
    data = await events(gateway, PATH, **body)
    assert data[-1] == "[DONE]"
    got = [json.loads(text) for text in data[:-1]]
    for chunk in got:
        openai_shapes.completion(chunk)
    return got


async def refused(gateway: Gateway, path: str = PATH, **body: Any) -> dict[str, Any]:
    async with gateway.http() as http:
        response = await http.post(path, json={"model": "toy"} | body)
    assert response.status_code == 400, response.text
    return error_of(response)


async def test_a_prompt_as_text_and_as_tokens(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    for prompt in ("say hello", ids("say hello")):
        got = await complete(gateway, prompt=prompt)
        (choice,) = got["choices"]
        assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == ("hello", "stop", None)
        assert got["object"] == "text_completion"
        assert got["id"].startswith("cmpl-")
        assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (9, 6)
        assert got["edgedraft"]["mode"] == "datacenter"
    assert [opened.prompt for opened in verifier.opened] == [ids("say hello")] * 2


@pytest.mark.parametrize("as_tokens", [False, True])
async def test_several_prompts_have_their_choices_in_order(gateway: Gateway, as_tokens: bool) -> None:
    prompts = ["say one", "say two", "babble"]
    got = await complete(gateway, prompt=[ids(p) for p in prompts] if as_tokens else prompts, n=2, seed=4, max_tokens=5)
    assert [choice["index"] for choice in got["choices"]] == list(range(6))
    texts = [choice["text"] for choice in got["choices"]]
    assert texts[:4] == ["one", "one", "two", "two"]
    assert texts[4] != texts[5]
    assert got["usage"]["prompt_tokens"] == 7 + 7 + 6
    assert got["usage"]["completion_tokens"] == 4 * 4 + 2 * 5
    assert got["metrics"]["speculative_decoding"] is None
    alone = await complete(gateway, prompt="babble", n=2, seed=4, max_tokens=5)
    assert [choice["text"] for choice in alone["choices"]] == texts[4:], "company changes nothing"


async def test_a_limit_that_is_not_named_is_sixteen(gateway: Gateway) -> None:
    got = await complete(gateway, prompt="babble")
    assert got["usage"]["completion_tokens"] == 16
    assert got["choices"][0]["finish_reason"] == "length"


async def test_echo(gateway: Gateway) -> None:
    for prompt in ("say héllo", ids("say héllo")):
        got = await complete(gateway, prompt=prompt, echo=True)
        assert got["choices"][0]["text"] == "say héllohéllo"
        assert got["usage"]["completion_tokens"] == 7
    got = await chunks(gateway, prompt=["say one", "say "], echo=True)
    texts = ["", ""]
    for chunk in got:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["say oneone", "say "]


@pytest.mark.parametrize("edge", [False, True])
async def test_best_of_keeps_what_the_target_finds_most_probable(gateway: Gateway, edge: bool) -> None:
    if edge:
        async with gateway.agent(wrong_every=4):
            await check_best_of(gateway)
    else:
        await check_best_of(gateway)


async def check_best_of(gateway: Gateway) -> None:
    got = await complete(gateway, prompt="babble", n=2, best_of=5, seed=9, max_tokens=8)
    means = {}
    prompt = ids("babble")
    for candidate in range(5):
        tokens = toy_model.complete_text(prompt, Sampling(seed=choice_seed(9, candidate)), 8)
        values = [toy_model.logprobs(prompt, tokens[:i], tokens[i], 0).logprob for i in range(8)]
        means[toy_model.TOKENIZER.decode(tokens)] = sum(values) / 8
    best = sorted(means, key=lambda text: means[text], reverse=True)[:2]
    assert [choice["text"] for choice in got["choices"]] == best
    assert [choice["index"] for choice in got["choices"]] == [0, 1]
    assert got["choices"][0]["logprobs"] is None
    assert got["usage"]["completion_tokens"] == 40, "what was thrown away was generated too"


@pytest.mark.parametrize("edge", [False, True])
async def test_logprobs_in_lists(gateway: Gateway, edge: bool) -> None:
    body = {"prompt": "say naïve 😀", "logprobs": 2}
    if edge:
        async with gateway.agent():
            got, streamed = await complete(gateway, **body), await chunks(gateway, **body)
    else:
        got, streamed = await complete(gateway, **body), await chunks(gateway, **body)
    logprobs = got["choices"][0]["logprobs"]
    assert logprobs["tokens"][:5] == ["n", "a", "bytes:\\xc3", "bytes:\\xaf", "v"]
    assert logprobs["text_offset"] == [0, 1, 2, 2, 3, 4, 5, 6, 6, 6, 6]
    tokens = ids("naïve 😀")
    expected = [toy_model.logprobs(ids(body["prompt"]), tokens[:i], tokens[i], 2) for i in range(len(tokens))]
    assert logprobs["token_logprobs"] == [entry.logprob for entry in expected]
    assert [list(top.values()) for top in logprobs["top_logprobs"]] == [entry.logprobs for entry in expected]
    assert [next(iter(top)) for top in logprobs["top_logprobs"]] == logprobs["tokens"]
    joined: dict[str, list[Any]] = {name: [] for name in logprobs}
    for chunk in streamed[:-1]:
        for name, values in chunk["choices"][0]["logprobs"].items():
            joined[name] += values
    assert joined == logprobs


async def test_logprobs_of_zero_have_no_alternatives(gateway: Gateway) -> None:
    got = await complete(gateway, prompt="say ab", logprobs=0)
    assert got["choices"][0]["logprobs"]["tokens"] == ["a", "b"]
    assert got["choices"][0]["logprobs"]["top_logprobs"] is None


async def test_a_stream(gateway: Gateway) -> None:
    *texts, finish, usage = await chunks(gateway, prompt="say one two", stop=" t", stream_options=USAGE)
    assert "".join(chunk["choices"][0]["text"] for chunk in texts) == "one"
    assert all(chunk["choices"][0]["finish_reason"] is None and chunk["usage"] is None for chunk in texts)
    assert (finish["choices"][0]["text"], finish["choices"][0]["finish_reason"]) == ("", "stop")
    assert finish["edgedraft"]["mode"] == "datacenter"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert len({chunk["id"] for chunk in [*texts, finish, usage]}) == 1


async def test_the_openai_sdk_reads_it(gateway: Gateway) -> None:
    client = gateway.openai()
    answer = await client.completions.create(model="toy", prompt=["say hello", "say bye"], user="me", logit_bias={})
    assert [choice.text for choice in answer.choices] == ["hello", "bye"]
    stream = await client.completions.create(model="toy", prompt="say hello", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "hello"
    with pytest.raises(openai.BadRequestError, match="suffix"):
        await client.completions.create(model="toy", prompt="a", suffix="b")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": [[5], "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": [toy_model.VOCAB_SIZE]}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 20, "n": 7}, "prompt"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": 0, "echo": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
    ],
)
async def test_bad_values_are_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    error = await refused(gateway, **{"prompt": "say a"} | change)
    assert error["param"].split(".")[0] == param


async def test_more_texts_than_a_key_may_have_at_once_are_a_429(tmp_path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, max_sessions_per_key=3) as gateway, gateway.http() as http:
        response = await http.post(PATH, json={"model": "toy", "prompt": ["a", "b"], "n": 2})
        assert response.status_code == 429
        assert (await http.post(PATH, json={"model": "toy", "prompt": ["a", "b", "c"]})).status_code == 200
        assert not gateway.state.admission._running


async def test_a_long_list_of_prompts_is_worked_off_in_order(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    prompts = [f"say {i}" for i in range(128)]
    assert len(prompts) > verifier.max_sessions
    got = await complete(gateway, prompt=prompts)
    assert [choice["text"] for choice in got["choices"]] == [str(i) for i in range(128)]


async def test_tokenize_and_back(gateway: Gateway) -> None:
    async with gateway.http() as http:
        got = (await http.post("/tokenize", json={"model": "toy", "prompt": "naïve"})).json()
        assert got == {"count": 6, "max_model_len": 2048, "tokens": ids("naïve"), "token_strs": None}
        back = await http.post("/detokenize", json={"model": "toy", "tokens": got["tokens"]})
        assert back.json() == {"prompt": "naïve"}
        got = (await http.post("/tokenize", json={"messages": user("hi"), "return_token_strs": True})).json()
        assert got["tokens"] == toy_model.chat_prompt(("user", "hi"))
        assert got["token_strs"][0] == toy_model.START
        back = await http.post("/detokenize", json={"tokens": got["tokens"]})
        assert back.json()["prompt"].startswith(toy_model.START)
        assert (await http.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}
        for path in ("/tokenize", "/detokenize"):
            response = await http.post(path, json={"prompt": "a", "tokens": []}, headers={"authorization": "Bearer no"})
            assert response.status_code == 401
            assert error_of(response)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": user("a")}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [toy_model.VOCAB_SIZE]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0"),
    ],
)
async def test_tokenizing_names_bad_values(gateway: Gateway, path: str, body: dict[str, Any], param: str) -> None:
    assert (await refused(gateway, path, **body))["param"] == param


@pytest.mark.parametrize("prompt", ["", [], None, ["a", ""], [""], [[]]])
async def test_an_empty_prompt_begins_a_document(gateway: Gateway, verifier: ScriptedVerifier, prompt: Any) -> None:
    made = await complete(gateway, prompt=prompt, max_tokens=3, temperature=0)
    count = len(prompt or [""])
    assert [choice["index"] for choice in made["choices"]] == list(range(count))
    assert sorted(opened.prompt for opened in verifier.opened)[-1] == [START]
    assert made["usage"]["prompt_tokens"] == count


async def test_a_missing_prompt_begins_a_document(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    await complete(gateway, max_tokens=3)
    assert verifier.opened[0].prompt == [START]


async def test_with_usage_every_chunk_has_the_field(gateway: Gateway) -> None:
    asked = await chunks(gateway, prompt="say a", stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["usage"]["completion_tokens"]
    assert not any("usage" in chunk for chunk in await chunks(gateway, prompt="say a"))
