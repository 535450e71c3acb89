"""litellm's SDK, the gateway being an OpenAI-compatible provider to it."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from typing import Any

import litellm
from features import Given, answer

litellm.drop_params = False


def asked(given: Given, temperature: float = 0.0, **more: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{given.model}",
        "api_base": given.base_url,
        "api_key": given.api_key,
        "messages": given.messages,
        "temperature": temperature,
        "seed": given.seed,
        "max_tokens": given.max_tokens,
        "num_retries": 0,
        **more,
    }


def whole(given: Given) -> str:
    return litellm.completion(**asked(given)).choices[0].message.content


def sampled(given: Given) -> str:
    return litellm.completion(**asked(given, 0.8)).choices[0].message.content


def streamed(given: Given) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked(given, stream=True)))


async def streamed_async(given: Given) -> str:
    stream = await litellm.acompletion(**asked(given, 0.8, stream=True))
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def stopped(given: Given) -> str:
    return litellm.completion(**asked(given, stop=[given.stop])).choices[0].message.content


def usage(given: Given) -> list[int]:
    chunks = list(litellm.completion(**asked(given, stream=True, stream_options={"include_usage": True})))
    reported = next(chunk.usage for chunk in reversed(chunks) if getattr(chunk, "usage", None))
    return [reported.prompt_tokens, reported.completion_tokens]


def structured(given: Given) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "planet", "schema": given.schema, "strict": True}}
    whole = litellm.completion(**asked(given, response_format=shape, max_tokens=given.long))
    return json.loads(whole.choices[0].message.content)


def called(given: Given) -> list[Any]:
    whole = litellm.completion(
        **asked(given, tools=[given.tool], tool_choice="required", parallel_tool_calls=False, max_tokens=given.long)
    )
    function = whole.choices[0].message.tool_calls[0].function
    return [function.name, json.loads(function.arguments)]


answer(whole, sampled, streamed, streamed_async, stopped, usage, structured, called)
