"""LlamaIndex's client for servers like OpenAI's."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from typing import Any

from features import Given, answer
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike


def chat(given: Given, temperature: float = 0.0, **more: Any) -> OpenAILike:
    return OpenAILike(
        model=given.model,
        api_base=given.base_url,
        api_key=given.api_key,
        temperature=temperature,
        max_tokens=more.pop("max_tokens", given.max_tokens),
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        additional_kwargs={"seed": given.seed, **more},
    )


def asked(given: Given) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=given.prompt)]


def whole(given: Given) -> str:
    return chat(given).chat(asked(given)).message.content


def sampled(given: Given) -> str:
    return chat(given, 0.8).complete(given.prompt).text


def streamed(given: Given) -> str:
    return "".join(part.delta for part in chat(given).stream_chat(asked(given)))


async def streamed_async(given: Given) -> str:
    return "".join([part.delta async for part in await chat(given, 0.8).astream_chat(asked(given))])


def stopped(given: Given) -> str:
    return chat(given, stop=[given.stop]).chat(asked(given)).message.content


def structured(given: Given) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "planet", "schema": given.schema, "strict": True}}
    said = chat(given, response_format=shape, max_tokens=given.long).chat(asked(given))
    return json.loads(said.message.content)


def called(given: Given) -> list[Any]:
    llm = chat(given, tools=[given.tool], tool_choice="required", parallel_tool_calls=False, max_tokens=given.long)
    (call, *_) = llm.get_tool_calls_from_response(llm.chat(asked(given)))
    return [call.tool_name, call.tool_kwargs]


answer(whole, sampled, streamed, streamed_async, stopped, structured, called)
