"""Tools and structured output from the real demo model, through the openai package; the same text with an agent."""

from __future__ import annotations

import json
from typing import Any, Literal, cast

import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from edgedraft.local.processes import ManagedProcess
from tests.e2e.conftest import Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Person(BaseModel):
    name: str
    kind: Literal["child", "adult"]
    likes: bool


PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "hobbies": {"type": "array", "items": {"type": "string", "maxLength": 16}, "maxItems": 3},
    },
    "required": ["name", "age", "hobbies"],
    "additionalProperties": False,
}


def test_a_loop_of_call_result_and_answer(service: Service) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = service.client.chat.completions.create(
        model=service.model,
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
    ).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls
    messages.append(cast(ChatCompletionMessageParam, first.message.to_dict()))
    for call in first.message.tool_calls:
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert set(json.loads(call.function.arguments)) == {"city", "unit"}
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees."})
    answer = service.client.chat.completions.create(
        model=service.model, messages=messages, temperature=0, max_tokens=64
    ).choices[0]
    assert answer.message.content
    assert not answer.message.tool_calls


def test_a_pydantic_model_is_parsed(service: Service) -> None:
    parsed = service.client.chat.completions.parse(
        model=service.model,
        messages=[{"role": "user", "content": "Ann is five and likes swimming. Describe her as JSON."}],
        response_format=Person,
        temperature=0,
        max_tokens=200,
    ).choices[0]
    assert parsed.finish_reason == "stop"
    assert isinstance(parsed.message.parsed, Person)


@pytest.mark.parametrize("temperature", [0.0])
def test_an_agent_changes_no_byte_of_structured_output(
    service: Service, agent: ManagedProcess, temperature: float
) -> None:
    def ask(edge: bool, **what: Any) -> tuple[str, str]:
        got = service.client.chat.completions.create(
            model=service.model,
            messages=[{"role": "user", "content": "Make up a person and describe them as JSON."}],
            temperature=temperature,
            seed=5,
            max_tokens=200,
            extra_body={"edgedraft": {"edge": edge}},
            **what,
        )
        assert got.choices[0].finish_reason in ("stop", "tool_calls")
        message = got.choices[0].message
        calls = [call.function.arguments for call in message.tool_calls or () if call.type == "function"]
        assert got.model_extra
        return message.content or "\n".join(calls), got.model_extra["edgedraft"]["mode"]

    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    forced = {"type": "function", "function": {"name": "get_weather"}}
    for what in ({"response_format": schema}, {"tools": [WEATHER], "tool_choice": forced}):
        alone, edge = ask(False, **what), ask(True, **what)
        assert alone[0] == edge[0]
        assert (alone[1], edge[1]) != ("datacenter", "datacenter")
        assert json.loads(edge[0])
