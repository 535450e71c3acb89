"""LangChain's ChatOpenAI."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

from features import Given, answer
from langchain_openai import ChatOpenAI


def chat(given: Given, temperature: float = 0.0, **more: Any) -> ChatOpenAI:
    more.setdefault("max_tokens", given.max_tokens)
    return ChatOpenAI(
        model=given.model,
        base_url=given.base_url,
        api_key=given.api_key,
        temperature=temperature,
        seed=given.seed,
        max_retries=0,
        **more,
    )


def whole(given: Given) -> str:
    return chat(given).invoke(given.prompt).content


def sampled(given: Given) -> str:
    return chat(given, 0.8).invoke(given.prompt).content


def streamed(given: Given) -> str:
    return "".join(chunk.content for chunk in chat(given).stream(given.prompt))


async def streamed_async(given: Given) -> str:
    return "".join([chunk.content async for chunk in chat(given, 0.8).astream(given.prompt)])


def stopped(given: Given) -> str:
    return chat(given, stop=[given.stop]).invoke(given.prompt).content


def usage(given: Given) -> list[int]:
    chunks = list(chat(given, stream_usage=True).stream(given.prompt))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return [total.usage_metadata["input_tokens"], total.usage_metadata["output_tokens"]]


def structured(given: Given) -> dict[str, Any]:
    bound = chat(given, max_tokens=given.long).with_structured_output(
        {"title": "planet", **given.schema}, method="json_schema", strict=True
    )
    return bound.invoke(given.prompt)


def called(given: Given) -> list[Any]:
    bound = chat(given, max_tokens=given.long).bind_tools(
        [given.tool], tool_choice="required", parallel_tool_calls=False
    )
    (call, *_) = bound.invoke(given.prompt).tool_calls
    return [call["name"], call["args"]]


answer(whole, sampled, streamed, streamed_async, stopped, usage, structured, called)
