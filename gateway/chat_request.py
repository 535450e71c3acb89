"""What POST /v1/chat/completions may ask for beside the shared parameters: its messages, and how templates see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.errors import ApiError
from gateway.parameters import UNSERVED, Parameters
from gateway.validation import Schema, empty, one_of, read_object, refuse_unserved, validated


class ContentPart(Schema):
    """One part of a message's content. Only text is served."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(Schema):
    """One message; fields that only some templates know stay raw."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class ChatRequest(Parameters):
    """A chat completion's parameters."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


_UNSERVED: dict[str, Callable[[Any], bool]] = UNSERVED | {
    "tools": empty,
    "tool_choice": one_of("none", "auto"),
    "functions": empty,
    "function_call": one_of("none", "auto"),
    "response_format": lambda value: isinstance(value, dict) and value.get("type") == "text",
    "top_logprobs": empty,
    "audio": empty,
    "modalities": lambda value: value in ([], ["text"]),
    "web_search_options": lambda value: False,
    "continue_final_message": empty,
    "add_generation_prompt": one_of(True),
    "chat_template": empty,
}


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    raw = read_object(body)
    refuse_unserved(raw, _UNSERVED)
    return validated(ChatRequest, raw)


def template_messages(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages as chat templates take them. Raises ApiError 400 for content other than text."""
    return [_template_message(index, message) for index, message in enumerate(request.messages)]


def _template_message(index: int, message: ChatMessage) -> dict[str, Any]:
    rendered: dict[str, Any] = {"role": message.role, "content": _text(index, message)}
    if message.name is not None:
        rendered["name"] = message.name
    if isinstance(reasoning := message.reasoning_content or message.reasoning, str):
        rendered["reasoning_content"] = reasoning
    if message.tool_calls:
        rendered["tool_calls"] = [_with_parsed_arguments(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _text(index: int, message: ChatMessage) -> str:
    param = f"messages.{index}.content"
    if message.content is None:
        if message.role != "assistant":
            raise ApiError(400, f"{param} is missing.", param=param, code="invalid_value")
        return ""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for number, part in enumerate(message.content):
        text = part.refusal if part.type == "refusal" else part.text if part.type == "text" else None
        if text is None:
            raise ApiError(
                400,
                f"Content of the type {part.type!r} is not supported; this model reads text only.",
                param=f"{param}.{number}",
                code="unsupported_content",
            )
        texts.append(text)
    return "".join(texts)


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Clients send a call's arguments as a JSON string, templates want the object."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
