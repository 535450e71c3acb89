"""The openai package for Python: completions, streams, errors, timeouts and cancellation."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.conformance.conftest import PROMPT, SEED, SIDES, TOKENS, Gateway, text_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODES = {"edge": {"edge", "mixed"}, "datacenter": {"datacenter"}}


def client(gateway: Gateway, side: str, **options: Any) -> OpenAI:
    options.setdefault("max_retries", 0)
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys[side], **options)


def asked(gateway: Gateway, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": gateway.model, "messages": messages, "seed": SEED, "max_tokens": TOKENS, "temperature": 0} | more


def texts(completion: ChatCompletion) -> list[str | None]:
    return [choice.message.content for choice in completion.choices]


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_whole_completion_and_who_made_it(gateway: Gateway, side: str, temperature: float) -> None:
    completion = client(gateway, side).chat.completions.create(**asked(gateway, temperature=temperature))
    reference = gateway.reference(temperature=temperature)
    assert completion.choices[0].message.content == text_of(reference)
    assert completion.choices[0].finish_reason == reference["choices"][0]["finish_reason"]
    assert completion.usage
    assert completion.usage.completion_tokens == reference["usage"]["completion_tokens"]
    assert (completion.model_extra or {})["edgedraft"]["mode"] in MODES[side]
    assert completion.id.startswith("chatcmpl-")


def test_a_stream_is_well_formed(gateway: Gateway, side: str) -> None:
    stream = client(gateway, side).chat.completions.create(
        **asked(gateway, stream=True, stream_options={"include_usage": True})
    )
    chunks: list[ChatCompletionChunk] = list(stream)
    *said, last = chunks
    assert last.usage
    assert not last.choices
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert said[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in said[:-1]] == [None] * (len(said) - 1)
    assert said[-1].choices[0].finish_reason == gateway.reference()["choices"][0]["finish_reason"]
    assert not any(chunk.usage for chunk in said)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in said)
    assert text == text_of(gateway.reference())


async def test_the_async_client_streams_side_by_side(gateway: Gateway) -> None:
    async def one(side: str, seed: int) -> str:
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys[side], max_retries=0) as asyncly:
            stream = await asyncly.chat.completions.create(
                **asked(gateway, seed=seed, temperature=0.8, stream=True, max_tokens=12)
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    seeds = range(4)
    got = await asyncio.gather(*(one(side, seed) for side in SIDES for seed in seeds))
    assert got[:4] == got[4:]
    assert len(set(got)) > 1


def test_the_stream_helper_accumulates_the_text(gateway: Gateway, side: str) -> None:
    with client(gateway, side).chat.completions.stream(**asked(gateway, stop=gateway.stop)) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == text_of(gateway.reference(stop=gateway.stop))


def test_several_choices_each_have_a_seed_of_their_own(gateway: Gateway) -> None:
    both = [
        client(gateway, side).chat.completions.create(**asked(gateway, n=3, temperature=0.8, max_tokens=10))
        for side in SIDES
    ]
    assert texts(both[0]) == texts(both[1])
    assert len(set(texts(both[0]))) == 3
    assert [choice.index for choice in both[0].choices] == [0, 1, 2]


@pytest.mark.parametrize("listed", [False, True], ids=["string", "list"])
def test_a_stop_string_ends_the_text_before_it(gateway: Gateway, side: str, listed: bool) -> None:
    stop = ["never said", gateway.stop] if listed else gateway.stop
    full = text_of(gateway.reference())
    completion = client(gateway, side).chat.completions.create(**asked(gateway, stop=stop))
    assert completion.choices[0].message.content == full[: full.index(gateway.stop)]
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"model": "nonesuch"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"messages": []}, openai.BadRequestError, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, openai.BadRequestError, "messages", None),
    ],
    ids=["model", "temperature", "messages", "context"],
)
def test_a_bad_request_raises_what_openais_own_would(
    gateway: Gateway, change: dict[str, Any], error: type[openai.APIStatusError], param: str, code: str | None
) -> None:
    with pytest.raises(error) as raised:
        client(gateway, "edge").chat.completions.create(**asked(gateway, **change))
    assert raised.value.param == param
    assert raised.value.code == (code or "context_length_exceeded")
    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id


def test_a_wrong_key_raises_an_authentication_error(gateway: Gateway) -> None:
    stranger = OpenAI(base_url=f"{gateway.url}/v1", api_key="ed-nobody", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as raised:
        stranger.chat.completions.create(**asked(gateway))
    assert raised.value.code == "invalid_api_key"


def test_models_can_be_listed_and_looked_up(gateway: Gateway, side: str) -> None:
    models = client(gateway, side).models
    assert [model.id for model in models.list()] == [gateway.model]
    assert models.retrieve(gateway.model).object == "model"
    with pytest.raises(openai.NotFoundError):
        models.retrieve("nonesuch")


def test_a_request_that_times_out_is_cancelled_here_too(gateway: Gateway, side: str) -> None:
    hasty = client(gateway, side, timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(**asked(gateway, max_tokens=2000), extra_body={"ignore_eos": True})
    assert_idle(gateway)


def test_leaving_a_stream_cancels_the_generation(gateway: Gateway, side: str) -> None:
    endless = asked(gateway, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    with client(gateway, side).chat.completions.create(**endless) as stream:
        assert next(iter(stream)).choices[0].finish_reason is None
        assert running(gateway) == 1
    assert_idle(gateway)


def running(gateway: Gateway) -> int:
    shown = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    found = re.search(r"^edgedraft_gateway_sessions (\S+)$", shown, re.MULTILINE)
    assert found
    return round(float(found[1]))


def assert_idle(gateway: Gateway) -> None:
    deadline = time.monotonic() + 120
    while running(gateway):
        assert time.monotonic() < deadline, "the generation was not cancelled"
        time.sleep(0.05)
