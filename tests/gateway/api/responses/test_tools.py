"""Function calls, structured text and thought, as the Responses API tells of them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.gateway.api.responses.reading import complete, events, post, steady, text_of
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Weather now", "parameters": CITY}
TIME = {"type": "function", "name": "time", "parameters": None, "strict": None}
TOOLS = [WEATHER, TIME]

ULM = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
THINKS = toy_model.TEMPLATE + "{# <think></think> #}"


class City(BaseModel):
    city: str


async def test_calls_are_items_of_their_own(gateway: Gateway) -> None:
    asked: dict[str, Any] = {"input": f"say Let me see.\n{ULM}\n{NOW}", "tools": TOOLS}
    got = await complete(gateway, **asked)
    message, weather, time = got["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (weather["type"], weather["name"], weather["status"]) == ("function_call", "weather", "completed")
    assert json.loads(weather["arguments"]) == {"city": "Ulm"}
    assert (time["name"], time["arguments"]) == ("time", "{}")
    assert weather["call_id"] != time["call_id"]
    assert weather["id"].startswith("fc_")
    assert got["status"] == "completed"
    assert got["tools"] == [WEATHER | {"strict": False}, TIME | {"description": None, "strict": False}]
    streamed = await events(gateway, **asked)
    kinds = [event["type"].removeprefix("response.") for event in streamed]
    steps = [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert steps == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *call,
        *call,
        "completed",
    ]
    added = [event for event in streamed if event["type"].endswith("item.added")]
    assert [event["output_index"] for event in added] == [0, 1, 2]
    assert added[1]["item"]["arguments"] == ""
    for index, arguments in ((1, '{"city": "Ulm"}'), (2, "{}")):
        deltas = [e["delta"] for e in streamed if e["type"].endswith("arguments.delta") and e["output_index"] == index]
        assert "".join(deltas) == arguments
    final = streamed[-1]["response"]
    for item, other in zip(final["output"], got["output"], strict=True):
        assert item.pop("call_id", None) != other.pop("call_id", "")
    assert steady(final) == steady(got)


async def test_the_loop_of_tools_by_the_sdk(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    client = gateway.openai()
    first = await client.responses.create(model="toy", input=f"say {ULM}", tools=TOOLS)  # type: ignore[call-overload]
    (call,) = first.output
    assert call.type == "function_call"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "20"}
    result: Any = [output, {"role": "user", "content": "say 20 degrees"}]
    last = await client.responses.create(model="toy", previous_response_id=first.id, input=result)
    assert last.output_text == "20 degrees"
    again: Any = [{"role": "user", "content": f"say {ULM}"}, *first.output, *result]
    stateless = await client.responses.create(model="toy", store=False, input=again)
    assert stateless.output_text == "20 degrees"
    assert verifier.opened[1].prompt == verifier.opened[2].prompt
    prompt = toy_model.TOKENIZER.decode(verifier.opened[1].prompt)
    assert prompt.index("Ulm") < prompt.index("<tool_response>\n20\n")


async def test_the_sdk_parses_streamed_calls(gateway: Gateway) -> None:
    tool = openai.pydantic_function_tool(City, name="weather")["function"]
    tools: Any = [{"type": "function", **tool}]
    async with gateway.openai().responses.stream(model="toy", input=f"say {ULM}", tools=tools) as stream:
        deltas = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert json.loads("".join(deltas)) == call.parsed_arguments == {"city": "Ulm"}


async def test_a_call_that_is_cut_off_is_incomplete(gateway: Gateway) -> None:
    got = await complete(gateway, input=f"say {ULM}", tools=TOOLS, max_output_tokens=52)
    (call,) = got["output"]
    assert (got["status"], call["status"], call["arguments"]) == ("incomplete", "incomplete", '{"city"')


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "time"}),
        ({"type": "function", "name": "weather"}, {"weather"}),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}, {"weather"}),
    ],
)
async def test_the_choice_binds_the_model(
    gateway: Gateway, verifier: ScriptedVerifier, choice: Any, names: set[str]
) -> None:
    got = await complete(gateway, input=f"say {ULM}", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert [item["type"] for item in got["output"]] == ["function_call"]
    assert (got["tool_choice"], got["parallel_tool_calls"]) == (choice, False)
    grammar = verifier.opened[0].sampling.grammar
    assert {name for name in ("weather", "time") if name in grammar} == names


async def test_structured_text_by_the_sdk(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    parsed = await gateway.openai().responses.parse(model="toy", input='say {"city": "Ulm"}', text_format=City)
    assert parsed.output_parsed == City(city="Ulm")
    assert "city" in verifier.opened[0].sampling.grammar
    async with gateway.openai().responses.stream(model="toy", input='say {"city": "Ulm"}', text_format=City) as stream:
        assert (await stream.get_final_response()).output_parsed == City(city="Ulm")
    form = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    got = await complete(gateway, input='say {"city": "Ulm"}', text={"format": form, "verbosity": "high"})
    assert got["text"] == {"format": form, "verbosity": "high"}
    await complete(gateway, input="say {}", text={"format": {"type": "json_object"}})
    assert verifier.opened[-1].sampling.grammar
    await complete(gateway, input="say a", structured_outputs={"choice": ["a", "b"]})
    assert verifier.opened[-1].sampling.grammar


async def test_thought_is_an_item_before_the_answer(tmp_path) -> None:
    async with (
        ScriptedVerifier(card=toy_model.card(template=THINKS)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        asked: dict[str, Any] = {"input": "say <think>\nhm, so\n</think>\n\nhello"}
        got = await complete(gateway, **asked)
        reasoning, message = got["output"]
        assert (reasoning["type"], reasoning["summary"], reasoning["status"]) == ("reasoning", [], "completed")
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "hm, so"}]
        assert message["type"] == "message"
        assert text_of(got) == "hello"
        assert 0 < got["usage"]["output_tokens_details"]["reasoning_tokens"] < got["usage"]["output_tokens"]
        streamed = await events(gateway, **asked)
        kinds = [event["type"].removeprefix("response.") for event in streamed]
        assert [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before][2:8] == [
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
        ]
        assert steady(streamed[-1]["response"]) == steady(got)
        await complete(gateway, input="say more", previous_response_id=got["id"])
        async with gateway.openai().responses.stream(model="toy", **asked) as stream:
            assert (await stream.get_final_response()).output_text == "hello"


@pytest.mark.parametrize("asked", [{"tools": TOOLS, "input": f"say a\n{ULM}"}, {"input": "say <think>x</think>y"}])
async def test_with_an_agent_it_is_the_same(tmp_path, asked: dict[str, Any]) -> None:
    async with (
        ScriptedVerifier(card=toy_model.card(template=THINKS)) as verifier,
        running_gateway(tmp_path, verifier) as gateway,
    ):
        alone = await complete(gateway, **asked)
        async with gateway.agent():
            drafted = await complete(gateway, **asked)
    for body in (alone, drafted):
        for item in body["output"]:
            item.pop("call_id", None)
    assert steady(alone) == steady(drafted)
    assert drafted["edgedraft"]["mode"] == "edge"


async def test_input_tokens_are_those_of_the_prompt(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    asked: dict[str, Any] = {"model": "toy", "input": "say a", "tools": TOOLS, "instructions": "be brief"}
    counted = await gateway.openai().responses.input_tokens.count(**asked)
    assert not verifier.opened
    got = await complete(gateway, **asked)
    assert counted.input_tokens == got["usage"]["input_tokens"] == len(verifier.opened[0].prompt)


async def test_what_is_wrong_is_named(gateway: Gateway) -> None:
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"tools": [{"name": "typeless"}]}, "tools.0.type", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "invalid_value"),
        ({"tools": [TIME, TIME]}, "tools", "invalid_value"),
        ({"tools": [{"type": "function", "name": f"f{n}"} for n in range(129)]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": "often"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "no"}}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search_preview"}}, "tool_choice", "unsupported_tool"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "invalid_value"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": 5}, "strict": True}}},
            "text.format",
            "invalid_value",
        ),
    ]
    for change, param, code in wrong:
        response = await post(gateway, {"input": "say hi"} | change)
        assert response.status_code == 400, (change, response.text)
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code), change
