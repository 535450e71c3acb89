"""LlamaIndex's client for servers like OpenAI's."""

# pyright: reportMissingImports=false
from __future__ import annotations

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
        max_tokens=given.max_tokens,
        is_chat_model=True,
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


answer(whole, sampled, streamed, streamed_async, stopped)
