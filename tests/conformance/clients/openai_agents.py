"""OpenAI's Agents SDK, whose models speak the Responses API or chat completions."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from typing import Any

from agents import (
    Agent,
    AgentOutputSchemaBase,
    FunctionTool,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from features import Given, answer
from openai import AsyncOpenAI

set_tracing_disabled(True)  # traces go to OpenAI


class JsonObject(AgentOutputSchemaBase):
    """An output by a schema that is no Python type."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema

    def is_plain_text(self) -> bool:
        return False

    def name(self) -> str:
        return "planet"

    def json_schema(self) -> dict[str, Any]:
        return self._schema

    def is_strict_json_schema(self) -> bool:
        return True

    def validate_json(self, json_str: str) -> Any:
        return json.loads(json_str)


def agent(given: Given, temperature: float = 0.0, chat: bool = False, **more: Any) -> Agent:
    client = AsyncOpenAI(base_url=given.base_url, api_key=given.api_key, max_retries=0)
    settings = ModelSettings(
        temperature=temperature,
        max_tokens=more.pop("max_tokens", given.max_tokens),
        extra_body={"seed": given.seed},
        tool_choice=more.pop("tool_choice", None),
        parallel_tool_calls=False if more.get("tools") else None,
    )
    kind = OpenAIChatCompletionsModel if chat else OpenAIResponsesModel
    return Agent("assistant", model=kind(given.model, client), model_settings=settings, **more)


# A response that was cut by max_tokens is an error for the SDK, a chat completion is not; so texts are chats here.
async def whole(given: Given) -> str:
    return (await Runner.run(agent(given, chat=True), given.prompt)).final_output


async def sampled(given: Given) -> str:
    return (await Runner.run(agent(given, 0.8, chat=True), given.prompt)).final_output


async def streamed(given: Given) -> str:
    return await joined(agent(given, chat=True), given)


async def streamed_async(given: Given) -> str:
    return await joined(agent(given, 0.8, chat=True), given)


async def joined(asked: Agent, given: Given) -> str:
    run = Runner.run_streamed(asked, given.prompt)
    events = [event.data async for event in run.stream_events() if event.type == "raw_response_event"]
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


async def usage(given: Given) -> list[int]:
    total = (await Runner.run(agent(given, chat=True), given.prompt)).context_wrapper.usage
    return [total.input_tokens, total.output_tokens]


async def structured(given: Given) -> dict[str, Any]:
    asked = agent(given, max_tokens=given.long, output_type=JsonObject(given.schema))
    return json.loads(await joined(asked, given))


async def called(given: Given) -> list[Any]:
    """A call alone, in a chat."""
    return (await tool_run(given, chat=True, tool_use_behavior="stop_on_first_tool"))[:2]


async def tool_round_bound(given: Given) -> list[Any]:
    """By the Responses API, whose last output has an end: it follows a schema."""
    return await tool_run(given, output_type=JsonObject(given.schema))


async def tool_run(given: Given, **more: Any) -> list[Any]:
    """The tool's name, what it was called with, and the output at the end. It may be called once."""
    calls: list[Any] = []

    async def run_tool(context: Any, arguments: str) -> str:
        calls.append([context.tool_name, json.loads(arguments)])
        return given.tool_result

    function = given.tool["function"]
    tool = FunctionTool(
        function["name"], function["description"], function["parameters"], run_tool, is_enabled=lambda *_: not calls
    )
    asked = agent(given, max_tokens=given.long, tools=[tool], tool_choice="required", **more)
    done = await Runner.run(asked, given.prompt, max_turns=2)
    (call,) = calls
    return [*call, done.final_output]


answer(whole, sampled, streamed, streamed_async, usage, structured, called, tool_round_bound)
