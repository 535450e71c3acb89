"""Tools and structured outputs through the openai package, with and without an agent."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, Field

from tests.conformance.conftest import SEED, SIDES, TOOL, Gateway
from tests.conformance.test_openai_python import client

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


class Planet(BaseModel):
    """What is asked for."""

    name: str = Field(max_length=12)
    kind: Literal["rock", "gas", "ice"]
    moons: int = Field(ge=0, le=99)
    habitable: bool


def asked(gateway: Gateway, question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": gateway.model, "messages": messages, "seed": SEED, "max_tokens": 120, "temperature": 0} | more


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_structured_outputs_are_parsed_by_the_package(gateway: Gateway, temperature: float) -> None:
    planets = [
        client(gateway, side)
        .chat.completions.parse(
            **asked(gateway, "Describe Mars.", temperature=temperature, response_format=Planet),
        )
        .choices[0]
        .message.parsed
        for side in SIDES
    ]
    assert planets[0] == planets[1]
    assert isinstance(planets[0], Planet)


def test_streamed_structured_outputs_are_parsed_too(gateway: Gateway, side: str) -> None:
    question = asked(gateway, "Describe Mars.", response_format=Planet)
    with client(gateway, side).chat.completions.stream(**question) as stream:
        final = stream.get_final_completion()
    whole = client(gateway, "datacenter").chat.completions.parse(**question)
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed
    assert isinstance(final.choices[0].message.parsed, Planet)


def test_a_json_object_is_one(gateway: Gateway) -> None:
    texts = [
        client(gateway, side)
        .chat.completions.create(
            **asked(gateway, "Give me a small JSON object.", response_format={"type": "json_object"}, max_tokens=60)
        )
        .choices[0]
        for side in SIDES
    ]
    assert texts[0].message.content == texts[1].message.content
    if texts[0].finish_reason == "stop":
        assert isinstance(json.loads(texts[0].message.content or ""), dict)


def calls_of(completion: ChatCompletion) -> list[tuple[str, str]]:
    calls = completion.choices[0].message.tool_calls or []
    return [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_that_must_be_called_is_called_by_its_schema(gateway: Gateway, choice: Any) -> None:
    question = asked(gateway, "What is the weather in Oslo?", tools=[TOOL], tool_choice=choice)
    reported = [calls_of(client(gateway, side).chat.completions.create(**question)) for side in SIDES]
    assert reported[0] == reported[1]
    (name, arguments), *_ = reported[0]
    assert name == "get_weather"
    given = json.loads(arguments)
    assert set(given) == {"city", "unit"}
    assert given["unit"] in {"celsius", "fahrenheit"}


def test_no_tool_is_called_where_none_may_be(gateway: Gateway, side: str) -> None:
    question = asked(gateway, "What is the weather in Oslo?", tools=[TOOL], tool_choice="none", max_tokens=12)
    completion = client(gateway, side).chat.completions.create(**question)
    assert not completion.choices[0].message.tool_calls
    assert completion.choices[0].message.content


def test_a_loop_with_a_tool_streamed_and_answered(gateway: Gateway) -> None:
    """Call, result, answer: the second request carries the call back as the package made it."""
    endings: list[str | None] = []
    for side in SIDES:
        completions = client(gateway, side).chat.completions
        question = asked(gateway, "What is the weather in Oslo?", tools=[TOOL], tool_choice="required")
        question["parallel_tool_calls"] = False
        with completions.stream(**question) as stream:
            events = [event.type for event in stream]
            message = stream.get_final_completion().choices[0].message
        assert "tool_calls.function.arguments.delta" in events
        assert message.tool_calls
        call = message.tool_calls[0]
        messages = [
            *question["messages"],
            message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": -3, "sky": "snow"}'},
        ]
        followed = asked(gateway, "", tools=[TOOL], tool_choice="none", max_tokens=16)
        followed["messages"] = messages
        answer = completions.create(**followed)
        endings.append(answer.choices[0].message.content)
    assert endings[0] == endings[1]
    assert endings[0]


def test_an_impossible_schema_is_refused(gateway: Gateway) -> None:
    schema = {"name": "x", "schema": {"type": "nonesuch"}, "strict": True}
    with pytest.raises(openai.BadRequestError) as raised:
        client(gateway, "edge").chat.completions.create(
            **asked(gateway, "Go on.", response_format={"type": "json_schema", "json_schema": schema})
        )
    assert str(raised.value.param).startswith("response_format")


@pytest.mark.parametrize("extra", [{"guided_regex": "(yes|no), (sir|madam)"}, {"guided_choice": ["up", "down"]}])
def test_the_extras_of_other_servers_bind_too(gateway: Gateway, extra: dict[str, Any]) -> None:
    texts = [
        client(gateway, side)
        .chat.completions.create(**asked(gateway, "Is the sky blue?", max_tokens=12, extra_body=extra))
        .choices[0]
        .message.content
        for side in SIDES
    ]
    assert texts[0] == texts[1]
    assert texts[0] in {"yes, sir", "yes, madam", "no, sir", "no, madam", "up", "down"}
