"""pydantic-ai, whose models speak chat completions or the Responses API."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from features import Given, answer
from pydantic_ai import Agent, NativeOutput, RunContext, StructuredDict, Tool, UsageLimits
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class FirstStepCalls(AbstractCapability[None]):
    """A call of a tool is required of the first response and allowed in later ones."""

    def get_model_settings(self) -> Callable[[RunContext[None]], ModelSettings]:
        return lambda context: ModelSettings(tool_choice="required" if context.run_step == 1 else "auto")


def agent(given: Given, temperature: float = 0.0, responses: bool = False, **more: Any) -> Agent[None, Any]:
    kind = OpenAIResponsesModel if responses else OpenAIChatModel
    model = kind(given.model, provider=OpenAIProvider(base_url=given.base_url, api_key=given.api_key))
    settings = ModelSettings(
        temperature=temperature,
        max_tokens=more.pop("max_tokens", given.max_tokens),
        parallel_tool_calls=False,
        **({"extra_body": {"seed": given.seed}} if responses else {"seed": given.seed}),
    )
    return Agent(model, model_settings=settings, **more)


async def whole(given: Given) -> str:
    return (await agent(given).run(given.prompt)).output


async def sampled(given: Given) -> str:
    return (await agent(given, 0.8).run(given.prompt)).output


async def streamed(given: Given) -> str:
    return await joined(agent(given), given)


async def streamed_async(given: Given) -> str:
    return await joined(agent(given, 0.8, responses=True), given)


async def joined(asked: Agent[None, str], given: Given) -> str:
    async with asked.run_stream(given.prompt) as run:
        return "".join([delta async for delta in run.stream_text(delta=True, debounce_by=None)])


async def usage(given: Given) -> list[int]:
    async with agent(given).run_stream(given.prompt) as run:
        await run.get_output()
    return [run.usage.input_tokens, run.usage.output_tokens]


async def structured(given: Given) -> dict[str, Any]:
    planet = NativeOutput(StructuredDict(given.schema, name="planet"), strict=True)
    return (await agent(given, max_tokens=given.long, output_type=planet).run(given.prompt)).output


async def tool_round(given: Given) -> list[Any]:
    """The tool's name, what it was called with, and the text that the model wrote behind its result."""
    function, calls = given.tool["function"], []

    def run_tool(**arguments: Any) -> str:
        calls.append(arguments)
        return given.tool_result

    tool = Tool.from_schema(run_tool, function["name"], function["description"], function["parameters"])
    asked = agent(given, max_tokens=given.long, tools=[tool], capabilities=[FirstStepCalls()])
    done = await asked.run(given.prompt, usage_limits=UsageLimits(request_limit=2))
    (arguments,) = calls
    return [function["name"], arguments, done.output]


answer(whole, sampled, streamed, streamed_async, usage, structured, tool_round)
