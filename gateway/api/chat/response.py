"""The shapes of a chat completion: the body, and the chunks that a stream is made of.

Order and presence of fields are what strict clients want: one id and one `created` throughout, `finish_reason` on every
choice, `choices` empty only on the usage chunk, usage nowhere else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from gateway.api.chat.message import AssistantMessage, end_reason, message_delta
from gateway.api.chat.request import ChatRequest
from gateway.api.logprobs import chat_logprobs
from gateway.http.event_stream import DONE, frame
from gateway.output.events import Delta, Finished
from gateway.sessions.generation import Generation
from gateway.sessions.speculation_stats import edgedraft_field


async def chunks(generation: Generation, request: ChatRequest) -> AsyncGenerator[bytes]:
    """The stream's frames. Raises what the generation raises; closing it cancels that."""
    head = _head(generation, "chat.completion.chunk", request)

    def chunk(
        choice: int, delta: dict[str, Any], reason: str | None, spoken: Delta | None = None, **root: Any
    ) -> bytes:
        logprobs = chat_logprobs([spoken], token_bytes) if spoken and request.logprobs else None
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return frame(head | {"choices": [entry]} | root)

    token_bytes = generation.jobs[0].model.token_bytes
    speaking: set[int] = set()
    async with aclosing(generation.events()) as events:
        async for event in events:
            first = event.choice not in speaking
            speaking.add(event.choice)
            if not isinstance(event, Finished):
                spoken = event if isinstance(event, Delta) else None
                yield chunk(event.choice, message_delta(event, first, request.legacy), None, spoken)
                continue
            if first:
                yield chunk(event.choice, {"role": "assistant", "content": ""}, None)
            reason = end_reason(event.reason, request.legacy)
            yield chunk(event.choice, {}, reason, edgedraft=edgedraft_field([event.stats]))
    if request.include_usage:
        yield frame(head | {"choices": [], "usage": usage(generation), "metrics": generation.metrics()})
    yield DONE


async def body(generation: Generation, request: ChatRequest) -> dict[str, Any]:
    """The whole response. Raises what the generation raises."""
    head = _head(generation, "chat.completion", request)
    messages = [AssistantMessage() for _ in generation.jobs]
    async with aclosing(generation.events()) as events:
        async for event in events:
            if not isinstance(event, Finished):
                messages[event.choice].add(event)
    token_bytes = generation.jobs[0].model.token_bytes
    choices = [
        {
            "index": index,
            "message": message.document(request.legacy),
            "logprobs": chat_logprobs(message.said, token_bytes) if request.logprobs else None,
            "finish_reason": end_reason(generation.finished[index].reason, request.legacy),
        }
        for index, message in enumerate(messages)
    ]
    return {
        **head,
        "choices": choices,
        "usage": usage(generation),
        "metrics": generation.metrics(),
        "edgedraft": generation.made(),
    }


def usage(generation: Generation) -> dict[str, Any]:
    """OpenAI's usage object of chat completions and completions."""
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.output_tokens,
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": generation.reasoning_tokens,
            "accepted_prediction_tokens": sum(choice.predicted[0] for choice in generation.finished.values()),
            "rejected_prediction_tokens": sum(choice.predicted[1] for choice in generation.finished.values()),
        },
    }


def _head(generation: Generation, kind: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": generation.model,
        **request.tier,
    }
