"""Responses as OpenAI's own types and clients want them: the body, the events and their order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseTextDeltaEvent

from tests.gateway.api.responses.reading import complete, events, post, steady, text_of
from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier


async def test_a_whole_response(gateway: Gateway) -> None:
    response = await post(gateway, {"input": "say hello", "metadata": {"a": "b"}, "user": "me"})
    got = response.json()
    Response.model_validate(got, strict=True)
    assert got["object"] == "response"
    assert got["id"].startswith("resp_")
    assert got["status"] == "completed"
    assert got["completed_at"] >= got["created_at"]
    assert got["error"] is got["incomplete_details"] is got["previous_response_id"] is None
    (message,) = got["output"]
    assert message["id"].startswith("msg_")
    assert message["role"] == "assistant"
    assert message["status"] == "completed"
    assert message["content"] == [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}]
    prompt = len(toy_model.chat_prompt(("user", "say hello")))
    assert got["usage"] == {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + 6,
    }
    assert got["metadata"] == {"a": "b"}
    assert got["user"] == "me"
    assert (got["store"], got["background"], got["truncation"]) == (True, False, "disabled")
    assert (got["temperature"], got["top_p"]) == (1.0, 1.0)
    assert got["text"]["format"] == {"type": "text"}
    assert (got["tools"], got["tool_choice"], got["parallel_tool_calls"]) == ([], "auto", True)
    assert got["edgedraft"]["mode"] == response.headers["x-edgedraft-mode"] == "datacenter"
    assert got["metrics"]["speculative_decoding"]["num_spec_steps"] == 0


async def test_a_stream_has_the_events_in_order(gateway: Gateway) -> None:
    got = await events(gateway, input="say one two")
    kinds = [event["type"].removeprefix("response.") for event in got]
    deltas = kinds.count("output_text.delta")
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event["delta"] for event in got if "delta" in event) == "one two"
    created, in_progress, added = got[:3]
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert created["response"]["usage"] is None
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    final = got[-1]["response"]
    assert final["id"] == created["response"]["id"]
    assert final["output"] == [got[-2]["item"]]
    assert text_of(final) == "one two"
    assert final["edgedraft"]["verifier_steps"] == 8
    assert final["usage"]["output_tokens"] == 8
    assert steady(final) == steady(await complete(gateway, input="say one two"))


async def test_an_answer_cut_at_its_limit_is_incomplete(gateway: Gateway) -> None:
    got = await complete(gateway, input="babble", max_output_tokens=5)
    assert got["status"] == got["output"][0]["status"] == "incomplete"
    assert got["incomplete_details"] == {"reason": "max_output_tokens"}
    assert got["completed_at"] is None
    assert got["usage"]["output_tokens"] == got["max_output_tokens"] == 5
    streamed = await events(gateway, input="babble", max_output_tokens=5, temperature=0)
    assert streamed[-1]["type"] == "response.incomplete"
    assert streamed[-2]["item"]["status"] == "incomplete"


async def test_an_answer_without_a_word_is_a_message(gateway: Gateway) -> None:
    got = await complete(gateway, input="say ")
    assert [part["text"] for part in got["output"][0]["content"]] == [""]
    kinds = [event["type"] for event in await events(gateway, input="say ")]
    assert kinds[2:] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_the_openai_sdk_reads_both(gateway: Gateway) -> None:
    client = gateway.openai()
    answer = await client.responses.create(model="toy", input="say hello", max_output_tokens=3)
    assert answer.output_text == "hel"
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    stream = await client.responses.create(model="toy", input="say hello", stream=True)
    assert "".join([event.delta async for event in stream if isinstance(event, ResponseTextDeltaEvent)]) == "hello"


async def test_the_openai_sdk_puts_a_stream_together(gateway: Gateway) -> None:
    async with gateway.openai().responses.stream(model="toy", input="say naïve 漢字 😀") as stream:
        snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert snapshots[-1] == final.output_text == "naïve 漢字 😀"
    assert final.status == "completed"
    assert final.usage
    assert final.usage.output_tokens == len("naïve 漢字 😀".encode()) + 1


async def test_the_synchronous_sdk_too(gateway: Gateway) -> None:
    def ask() -> str:
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
        with client.responses.stream(model="toy", input="say hello") as stream:
            return stream.get_final_response().output_text

    assert await asyncio.to_thread(ask) == "hello"


@pytest.mark.parametrize("body", [{}, {"temperature": 0.7, "seed": 4}, {"temperature": 0}])
async def test_with_an_agent_the_text_is_the_same(gateway: Gateway, body: dict[str, Any]) -> None:
    asked = {"input": "babble", "max_output_tokens": 40, "seed": 11} | body
    alone = await complete(gateway, **asked)
    async with gateway.agent():
        with_agent = await complete(gateway, **asked)
        streamed = await events(gateway, **asked)
        apart = await complete(gateway, **asked, edgedraft={"edge": False})
    assert steady(alone) == steady(with_agent) == steady(streamed[-1]["response"])
    assert with_agent["edgedraft"]["mode"] == "edge"
    assert with_agent["edgedraft"]["accepted"] > 0
    assert streamed[-1]["response"]["edgedraft"]["mode"] == "edge"
    assert apart["edgedraft"]["mode"] == alone["edgedraft"]["mode"] == "datacenter"


async def test_sampling_parameters_reach_the_verifier(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    got = await complete(gateway, input="say a", temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=7)
    sampling = verifier.opened[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    assert (got["temperature"], got["top_p"]) == (0.5, 0.9)


async def test_log_probabilities(gateway: Gateway) -> None:
    asked = {"input": "say añb", "top_logprobs": 2}
    (message,) = (await complete(gateway, **asked))["output"]
    (part,) = message["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in part["logprobs"]).decode() == part["text"] == "añb"
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in part["logprobs"])
    got = await events(gateway, **asked)
    assert got[-1]["response"]["output"][0]["content"] == [part]
    deltas = [entry for event in got if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    (done,) = [event for event in got if event["type"].endswith("text.done")]
    assert deltas == done["logprobs"]
    assert [entry["logprob"] for entry in deltas] == [entry["logprob"] for entry in part["logprobs"]]
    included = await complete(gateway, input="say ab", include=["message.output_text.logprobs"])
    assert [entry["top_logprobs"] for entry in included["output"][0]["content"][0]["logprobs"]] == [[], []]


async def test_a_stream_that_cannot_be_finished_says_so(tmp_path: Path, verifier: ScriptedVerifier) -> None:
    verifier.silent_at = 3
    async with running_gateway(tmp_path, verifier, silence_timeout=0.2, open_timeout=0.3) as gateway:
        stream = await gateway.openai().responses.create(model="toy", input="say hello", stream=True)
        got = [event async for event in stream]
    last = got[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error
    assert last.response.error.code == "server_error"
    assert "verifier_unavailable" in last.response.error.message
    assert last.response.output_text == "hel"
    assert last.sequence_number == len(got) - 1
    Response.model_validate(last.response.to_dict(), strict=True)


async def test_a_request_that_nobody_takes_gets_a_status(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    verifier.refuse = "refused"
    for stream in (False, True):
        response = await post(gateway, {"input": "say hello", "stream": stream})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "refused"


async def test_a_gateway_that_shuts_down_says_so(tmp_path, verifier: ScriptedVerifier) -> None:
    verifier.step = 0.02
    async with running_gateway(tmp_path, verifier) as gateway:
        stream = await gateway.openai().responses.create(model="toy", input="babble", stream=True)
        got = [await anext(stream) for _ in range(8)]
        rest = asyncio.create_task(_rest(stream))
    got += await rest
    last = got[-1]
    assert last.type == "response.failed"
    assert last.response.error
    assert "shutting_down" in last.response.error.message
    assert [event.sequence_number for event in got] == list(range(len(got)))


async def _rest(stream: Any) -> list[Any]:
    return [event async for event in stream]
