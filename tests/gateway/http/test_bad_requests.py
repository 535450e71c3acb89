"""Whatever a client sends, the answer is an OpenAI error body that says what is wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from openai.types import ErrorObject

from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support.scripted_verifier import ScriptedVerifier
from tests.support.toy_model import card
from tests.support.waiting import until

HELLO = [{"role": "user", "content": "say hi"}]
CHAT = {"model": "toy", "messages": HELLO}


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert set(response.json()) == {"error"}, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    ErrorObject.model_validate(error, strict=True)
    assert error["message"]
    assert error["type"]
    assert response.headers["x-request-id"]
    return error


async def post(gateway: Gateway, body: Any, key: str = KEY) -> httpx.Response:
    async with gateway.http(key) as http:
        content = body if isinstance(body, bytes | str) else json.dumps(body)
        return await http.post("/v1/chat/completions", content=content)


@pytest.mark.parametrize(
    "body",
    ["{", "", "nonsense", "[1]", '"text"', b"\xff\xfe{}", '{"model": "\\ud800"}', "[" * 5000, '{"model": "toy"'],
)
async def test_malformed_json_is_a_400(gateway: Gateway, body: str | bytes) -> None:
    response = await post(gateway, body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"model": 5}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -7}, "max_completion_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop.0"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"edgedraft": {"edge": "no"}}, "edgedraft.edge"),
    ],
)
async def test_bad_values_are_named(gateway: Gateway, change: dict[str, Any], param: str) -> None:
    response = await post(gateway, CHAT | change)
    assert response.status_code == 400
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"audio": {"voice": "alloy"}},
        {"modalities": ["text", "audio"]},
    ],
)
async def test_parameters_that_would_change_the_answer_are_refused_by_name(
    gateway: Gateway, change: dict[str, Any]
) -> None:
    response = await post(gateway, CHAT | change)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == next(iter(change))
    assert error["code"] == "unsupported_parameter"


async def test_neutral_and_unknown_parameters_pass(gateway: Gateway) -> None:
    body = CHAT | {
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "logit_bias": {},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1,
        "temperature": None,
        "stop": None,
        "user": "me",
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "verbosity": "low",
        "no_such_parameter": [1, 2],
    }
    response = await post(gateway, body)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("arguments", ["[" * 5000, "{", "1" * 5000, ""])
async def test_arguments_that_are_no_json_reach_the_template_as_they_are(gateway: Gateway, arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}, *HELLO]
    response = await post(gateway, CHAT | {"messages": messages})
    assert response.status_code == 200 or error_of(response)["code"] == "context_length_exceeded"


async def test_image_parts_are_refused(gateway: Gateway) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    response = await post(gateway, CHAT | {"messages": [{"role": "user", "content": [image]}]})
    assert response.status_code == 400
    assert error_of(response)["code"] == "unsupported_content"
    assert "image_url" in error_of(response)["message"]


async def test_unknown_model_is_a_404(gateway: Gateway) -> None:
    response = await post(gateway, CHAT | {"model": "gpt-17"})
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await gateway.openai().chat.completions.create(model="gpt-17", messages=HELLO)  # type: ignore[arg-type]


async def test_a_prompt_past_the_context_is_a_400(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    for length in (2048, 100_000):
        response = await post(gateway, CHAT | {"messages": [{"role": "user", "content": "x" * length}]})
        assert response.status_code == 400
        assert error_of(response)["code"] == "context_length_exceeded"
    assert not verifier.opened


async def test_more_tokens_than_the_context_has_left_are_cut_to_that(gateway: Gateway) -> None:
    response = await post(gateway, CHAT | {"messages": [{"role": "user", "content": "x" * 1990}], "max_tokens": 10**12})
    assert response.status_code == 200
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["total_tokens"] == 2048


@pytest.mark.parametrize("key", ["", "ed-wrong", "ed-" + "é"])
async def test_a_wrong_key_is_a_401(gateway: Gateway, key: str) -> None:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        headers = {b"authorization": f"Bearer {key}".encode()} if key else {}
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/toy")):
            response = await http.request(method, gateway.url + path, headers=headers)
            assert response.status_code == 401
            assert error_of(response)["code"] == "invalid_api_key"


async def test_a_key_without_the_scope_is_a_403(gateway: Gateway) -> None:
    key = await gateway.accounts.create("ann", "default", ["edge"])
    assert (await post(gateway, CHAT, key)).status_code == 403
    async with gateway.http(key) as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    async with gateway.http() as http:
        response = await http.get("/v1/nothing", headers={"x-request-id": "mine-1"})
        assert response.status_code == 404
        assert error_of(response)
        assert response.headers["x-request-id"] == "mine-1"
        response = await http.get("/v1/chat/completions", headers={"x-request-id": "not usable!"})
        assert response.status_code == 405
        assert error_of(response)
        assert response.headers["x-request-id"].startswith("req_")


async def test_a_body_too_large_is_a_413(gateway: Gateway) -> None:
    body = json.dumps(CHAT | {"messages": [{"role": "user", "content": "x" * (9 << 20)}]}).encode()
    response = await post(gateway, body)
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"

    async def in_parts():
        for start in range(0, len(body), 1 << 20):
            yield body[start : start + (1 << 20)]

    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", content=in_parts())
    assert response.status_code == 413


async def test_a_fault_of_ours_is_a_500_with_a_body(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("gateway.api.chat.route.build_session_requests", broken)
    response = await post(gateway, CHAT)
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert "secret" not in response.text


@pytest.mark.parametrize("stream", [False, True])
async def test_more_generations_than_a_key_may_run_are_a_429(
    tmp_path, verifier: ScriptedVerifier, stream: bool
) -> None:
    verifier.forwards.clear()
    async with running_gateway(tmp_path, verifier, max_sessions_per_key=2) as gateway:
        babble = CHAT | {
            "messages": [{"role": "user", "content": "babble"}],
            "max_tokens": 10,
            "n": 2,
            "stream": stream,
        }
        first = asyncio.create_task(post(gateway, babble))
        await until(lambda: len(verifier.opened) == 2)
        response = await post(gateway, CHAT)
        verifier.forwards.set()
        assert response.status_code == 429
        assert error_of(response)["code"] == "rate_limit_exceeded"
        assert int(response.headers["retry-after"]) >= 1
        assert (await first).status_code == 200
        assert (await post(gateway, CHAT)).status_code == 200


async def test_a_template_that_refuses_is_a_400(tmp_path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    async with (
        ScriptedVerifier(card=card(name="strict", template=template)) as strict,
        ScriptedVerifier(card=card(name="bare", template="")) as bare,
        running_gateway(tmp_path, strict, bare) as gateway,
    ):
        response = await post(gateway, CHAT | {"model": "strict"})
        assert response.status_code == 400
        assert "roles must alternate" in error_of(response)["message"]
        response = await post(gateway, CHAT | {"model": "bare"})
        assert response.status_code == 400
        assert "no chat template" in error_of(response)["message"]


async def test_a_verifiers_refusal_is_a_400_and_overload_a_429(tmp_path) -> None:
    async with ScriptedVerifier(refuse="refused") as verifier, running_gateway(tmp_path, verifier) as gateway:
        response = await post(gateway, CHAT | {"stream": True})
        assert response.status_code == 400
        assert error_of(response)["code"] == "refused"
        assert len(verifier.opened) == 1
    async with (
        ScriptedVerifier(refuse="overloaded") as verifier,
        running_gateway(tmp_path, verifier, open_timeout=0.5) as gateway,
    ):
        for stream in (False, True):
            response = await post(gateway, CHAT | {"stream": stream})
            assert response.status_code == 429
            assert response.headers["retry-after"]
            assert error_of(response)["type"] == "rate_limit_error"
        assert len(verifier.opened) == 2


async def test_half_a_surrogate_pair_in_a_turn_is_served(gateway: Gateway) -> None:
    body = rb'{"model": "toy", "max_tokens": 2, "messages": [{"role": "user", "content": "Say hi \ud83d."}]}'
    async with gateway.http() as http:
        response = await http.post("/v1/chat/completions", content=body)
    assert response.status_code == 200, response.text
