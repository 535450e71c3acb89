"""A response as clients see it: the object, and the stream of events that ends with it.

Nothing is sent before the model's first token, so that a request that nobody takes gets an error status and not a
stream. https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal

from pydantic_core import from_json, to_json

from gateway.api.logprobs import chat_logprobs
from gateway.api.responses.output import Output, StreamEvent
from gateway.api.responses.request import ResponsesRequest
from gateway.api.responses.tools import function_tools
from gateway.model.token_bytes import TokenBytes
from gateway.output.events import CallArguments, CallBegun, Delta, Event, Reasoning
from gateway.sessions.generation import Generation

Status = Literal["in_progress", "completed", "incomplete", "failed"]
Keep = Callable[[dict[str, Any]], Awaitable[bool]]  # stores a finished response; False when it could not


class ResponseAnswer:
    """One response, told as a whole (`body`) or as a stream (`frames`), whichever is asked for first."""

    def __init__(self, response_id: str, request: ResponsesRequest, token_bytes: TokenBytes, keep: Keep | None) -> None:
        """`keep` is called with the finished response before the client is told of its end; None stores nothing."""
        self._request = request
        self._token_bytes = token_bytes
        self._keep = keep
        self._output = Output(response_id)
        self._sequence = 0
        self._created = int(time.time())
        self._head = {
            "id": response_id,
            "object": "response",
            "created_at": self._created,
            "model": request.model,
            **_echo(request),
            "store": keep is not None,
        }

    async def body(self, generation: Generation) -> dict[str, Any]:
        """The whole response. Raises what the generation raises."""
        async with aclosing(generation.events()) as events:
            async for event in events:
                self._take(event)
        return await self._finished(generation)

    async def frames(self, generation: Generation) -> AsyncGenerator[bytes]:
        """The stream's frames. Raises what the generation raises; closing it cancels that."""
        async with aclosing(generation.events()) as events:
            async for event in events:
                if not self._sequence:
                    for kind in ("created", "in_progress"):
                        yield self._frame({"type": f"response.{kind}", "response": self._object("in_progress", [])})
                for told in self._take(event):
                    yield self._frame(told)
        response = await self._finished(generation)
        yield self._frame({"type": f"response.{response['status']}", "response": response})

    def failed(self, message: str, code: str) -> bytes:
        """The last frame of a stream that began and could not be finished."""
        self._output.end("incomplete")
        error = {"code": "server_error", "message": f"{message} ({code})"}
        response = self._object("failed", self._output.items, error=error)
        return self._frame({"type": "response.failed", "response": response})

    def _take(self, event: Event) -> list[StreamEvent]:
        """Note what the model did; the events to send."""
        match event:
            case Delta():
                return self._output.text(event.text, self._logprobs(event))
            case Reasoning():
                return self._output.reasoning(event.text)
            case CallBegun():
                return self._output.call(event.id, event.name)
            case CallArguments():
                return self._output.arguments(event.text)
        # An answer without a word is still a message.
        told = [] if self._output.items else self._output.text("")
        return told + self._output.end("incomplete" if event.reason == "length" else "completed")

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        return chat_logprobs([delta], self._token_bytes)["content"] if self._request.alternatives >= 0 else []

    async def _finished(self, generation: Generation) -> dict[str, Any]:
        cut = generation.finished[0].reason == "length"
        response = self._object(
            "incomplete" if cut else "completed",
            self._output.items,
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            completed_at=None if cut else int(time.time()),
            usage=_usage(generation),
            metrics=generation.metrics(),
            edgedraft=generation.made(),
        )
        if self._keep and not await self._keep(response):
            response["store"] = False
        return response

    def _object(self, status: Status, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        return self._head | {"status": status, "output": output} | empty | fields

    def _frame(self, event: StreamEvent) -> bytes:
        """One server-sent event. ASCII only, for some clients split lines at U+2028 and its like."""
        event["sequence_number"] = self._sequence
        self._sequence += 1
        data = json.dumps(event, separators=(",", ":"))
        return f"event: {event['type']}\ndata: {data}\n\n".encode()


def _usage(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generation.output_tokens,
        "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens},
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
    }


def _echo(request: ResponsesRequest) -> dict[str, Any]:
    """The request's parameters as the response repeats them, defaults filled in."""
    text, reasoning = request.text, request.reasoning
    echo = {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": reasoning and reasoning.summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "background": False,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {
            "format": (text and text.format) or {"type": "text"},
            "verbosity": (text and text.verbosity) or "medium",
        },
        "tool_choice": request.tool_choice or "auto",
        "tools": [tool.model_dump() | {"strict": bool(tool.strict)} for tool in function_tools(request.tools or ())],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }
    # What clients may nest as they like could hold numbers that JSON does not have.
    return from_json(to_json(echo, inf_nan_mode="null"))
