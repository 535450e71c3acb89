"""A response of the Responses API as a stream of events, or as one body.

Nothing is sent before the model's first token, so that a request that no verifier accepts gets an error status and not
a stream. Source: https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

from pydantic_core import from_json, to_json

from gateway.api.logprobs import chat_logprobs
from gateway.api.responses.output import ResponseOutput, StreamEvent
from gateway.api.responses.request import ResponsesRequest
from gateway.http.errors import ApiError
from gateway.http.event_stream import join_pieces
from gateway.http.json_response import write_ascii, write_json
from gateway.output.events import OutputEvent, ReasoningDelta, TextDelta, ToolCallArgumentsDelta, ToolCallStarted
from gateway.sessions.generation import Generation

Status = Literal["in_progress", "completed", "incomplete", "failed"]
StoreResponse = Callable[[dict[str, Any]], Awaitable[bool]]  # stores a finished response; False when it could not


class ResponseBody:
    """Collects a generation into one response object (generation_context.BodyBuilder)."""

    def __init__(
        self, response_id: str, generation: Generation, request: ResponsesRequest, store: StoreResponse | None
    ) -> None:
        """`store` is called with the finished response before the client receives its end; None stores nothing."""
        self._generation = generation
        self._request = request
        self._store = store
        self._output = ResponseOutput(response_id, request.tool_set.origin_of)
        self._head = {
            "id": response_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": request.model,
            **_echo(request),
            "store": store is not None,
        }

    def add(self, events: Sequence[OutputEvent]) -> None:
        for event in events:
            self.take(event)

    async def document(self) -> dict[str, Any]:
        generation = self._generation
        cut = generation.choices[0].output.finish_reason == "length"
        response = self.response(
            "incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            completed_at=None if cut else int(time.time()),
            usage=_usage(generation),
            metrics=generation.metrics(),
            edgedraft=generation.edgedraft() | self._left_out(),
        )
        if self._store and not await self._store(response):
            response["store"] = False
        return response

    def take(self, event: OutputEvent) -> list[StreamEvent]:
        """Adds one event to the output. Returns the streaming events for it."""
        match event:
            case TextDelta():
                return self._output.text(event.text, self._logprobs(event))
            case ReasoningDelta():
                return self._output.reasoning(event.text)
            case ToolCallStarted():
                return self._output.tool_call(event.id, event.name)
            case ToolCallArgumentsDelta():
                return self._output.arguments(event.text)
        # An answer without text is still a message.
        events = [] if self._output.items else self._output.text("")
        return events + self._output.end("incomplete" if event.reason == "length" else "completed")

    def begin(self) -> list[StreamEvent]:
        """The streaming events before the first output."""
        return [
            {"type": f"response.{kind}", "response": self.response("in_progress", with_output=False)}
            for kind in ("created", "in_progress")
        ]

    def failed(self, error: ApiError) -> dict[str, Any]:
        """The response object of a stream that cannot be finished."""
        self._output.end("incomplete")
        return self.response("failed", error={"code": "server_error", "message": f"{error.message} ({error.code})"})

    def response(self, status: Status, with_output: bool = True, **fields: Any) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}
        output = self._output.items if with_output else []
        return self._head | {"status": status, "output": output} | empty | fields

    def _left_out(self) -> dict[str, Any]:
        """What the response says about tools that the model was not given."""
        left_out = self._request.tool_set.left_out
        return {"left_out_tools": left_out} if left_out else {}

    def _logprobs(self, delta: TextDelta) -> list[dict[str, Any]]:
        if self._request.alternatives < 0:
            return []
        return chat_logprobs([delta], self._generation.model.token_bytes)["content"]


class ResponseStream:
    """Encodes a generation as the events of a streamed response (event_stream.StreamEncoder)."""

    def __init__(self, body: ResponseBody) -> None:
        self._body = body
        self._sequence = 0

    def encode(self, events: Sequence[OutputEvent]) -> Iterator[bytes]:
        if not self._sequence:
            for event in self._body.begin():
                yield from self._frame(event)
        for output in events:
            for event in self._body.take(output):
                yield from self._frame(event)

    async def finish(self) -> bytes:
        response = await self._body.document()
        return await join_pieces(self._frame({"type": f"response.{response['status']}", "response": response}))

    def fail(self, error: ApiError) -> bytes:
        return b"".join(self._frame({"type": "response.failed", "response": self._body.failed(error)}))

    def _frame(self, event: StreamEvent) -> Iterator[bytes]:
        """One server-sent event. ASCII only, because some clients split lines at U+2028 and similar characters.

        The events at the end repeat all of an output with its log-probabilities, hence the pieces.
        """
        event["sequence_number"] = self._sequence
        self._sequence += 1
        yield f"event: {event['type']}\ndata: ".encode()
        for piece in write_json(event, write_ascii):
            yield piece.encode()
        yield b"\n\n"


def _usage(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": generation.output_tokens,
        "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens},
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
    }


def _echo(request: ResponsesRequest) -> dict[str, Any]:
    """The request's parameters as the response repeats them, with defaults filled in."""
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
        "tools": request.tool_set.echo,
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }
    # Free-form parameters may hold NaN or infinity, which JSON does not have.
    return from_json(to_json(echo, inf_nan_mode="null"))
