"""A chat completion as a stream of chunks, or as one body.

Strict clients depend on the order and presence of fields: the same `id` and `created` throughout, `finish_reason` on
every choice, an empty `choices` on the usage chunk only, and no usage in other chunks.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.api.chat.message import AssistantMessage, finish_reason, message_delta
from gateway.api.chat.request import ChatRequest
from gateway.api.logprobs import all_chat_logprobs, chat_logprobs
from gateway.http.errors import ApiError
from gateway.http.event_stream import DONE, error_frames, frame
from gateway.output.events import ChoiceFinished, OutputEvent, TextDelta
from gateway.sessions.generation import Generation


class ChatStream:
    """Encodes a generation as chat completion chunks (event_stream.StreamEncoder)."""

    def __init__(self, generation: Generation, request: ChatRequest) -> None:
        self._generation = generation
        self._request = request
        self._head = _head(generation, "chat.completion.chunk", request)
        self._token_bytes = generation.model.token_bytes
        # As OpenAI specifies, every chunk has the field if the last one has the usage.
        self._no_usage = {"usage": None} if request.include_usage else {}
        self._started: set[int] = set()  # choices that have had a chunk

    def encode(self, events: Sequence[OutputEvent]) -> Iterator[bytes]:
        return map(self._frames, events)

    async def finish(self) -> bytes:
        if not self._request.include_usage:
            return DONE
        totals = {"usage": usage(self._generation), "metrics": self._generation.metrics()}
        return frame(self._head | {"choices": []} | totals) + DONE

    def fail(self, error: ApiError) -> bytes:
        return error_frames(error)

    def _frames(self, event: OutputEvent) -> bytes:
        first = event.choice not in self._started
        if first:
            self._started.add(event.choice)
        if not isinstance(event, ChoiceFinished):
            text = event if isinstance(event, TextDelta) else None
            return self._chunk(event.choice, message_delta(event, first, self._request.legacy), None, text)
        reason = finish_reason(event.reason, self._request.legacy)
        last = self._chunk(event.choice, {}, reason, edgedraft=self._generation.edgedraft(event.choice))
        # A choice without text still has a chunk with the role.
        return self._chunk(event.choice, {"role": "assistant", "content": ""}, None) + last if first else last

    def _chunk(
        self, choice: int, delta: dict[str, Any], reason: str | None, text: TextDelta | None = None, **root: Any
    ) -> bytes:
        logprobs = chat_logprobs([text], self._token_bytes) if text and self._request.logprobs else None
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return frame(self._head | {"choices": [entry]} | self._no_usage | root)


class ChatBody:
    """Collects a generation into one chat completion (generation_context.BodyBuilder)."""

    def __init__(self, generation: Generation, request: ChatRequest) -> None:
        self._generation = generation
        self._request = request
        self._head = _head(generation, "chat.completion", request)
        self._messages = [AssistantMessage() for _ in generation.choices]

    def add(self, events: Sequence[OutputEvent]) -> None:
        for event in events:
            if not isinstance(event, ChoiceFinished):
                self._messages[event.choice].add(event)

    async def document(self) -> dict[str, Any]:
        generation, legacy = self._generation, self._request.legacy
        return {
            **self._head,
            "choices": [await self._choice(index, message, legacy) for index, message in enumerate(self._messages)],
            "usage": usage(generation),
            "metrics": generation.metrics(),
            "edgedraft": generation.edgedraft(),
        }

    async def _choice(self, index: int, message: AssistantMessage, legacy: bool) -> dict[str, Any]:
        token_bytes, output = self._generation.model.token_bytes, self._generation.choices[index].output
        return {
            "index": index,
            "message": message.document(legacy),
            "logprobs": await all_chat_logprobs(message.text, token_bytes) if self._request.logprobs else None,
            "finish_reason": finish_reason(output.finish_reason, legacy),
        }


def usage(generation: Generation) -> dict[str, Any]:
    """OpenAI's usage object of chat completions and completions."""
    predictions = [choice.prediction_tokens for choice in generation.choices]
    return {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.output_tokens,
        "total_tokens": generation.prompt_tokens + generation.output_tokens,
        "prompt_tokens_details": {"cached_tokens": generation.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": generation.reasoning_tokens,
            "accepted_prediction_tokens": sum(accepted for accepted, _ in predictions),
            "rejected_prediction_tokens": sum(rejected for _, rejected in predictions),
        },
    }


def _head(generation: Generation, kind: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": generation.model.name,
        **request.tier,
    }
