"""What POST /v1/chat/completions may ask for: the request's schema, and a clear no to what is not served yet.

Unknown parameters pass, for clients keep adding new ones. Parameters that are known and would change the answer are
never dropped in silence: where they are not served, they are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from gateway.errors import ApiError

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_CHOICES = 8

_UNION_BRANCH = re.compile(r"(constrained-)?str|list\[.*")  # pydantic's names for them, of no use to a client

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


class ContentPart(_Part):
    """One part of a message's content. Only text is served."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(_Part):
    """One message; fields that only some templates know stay raw."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class StreamOptions(_Part):
    include_usage: bool | None = None


class EdgeOptions(_Part):
    """This gateway's own extension: edge false keeps the prompt away from all agents."""

    edge: bool = True


class ChatRequest(_Part):
    """A chat completion's parameters; null stands for the default everywhere."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Int64 | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    edgedraft: EdgeOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def _empty(value: Any) -> bool:
    return not value


def _one_of(*neutral: Any) -> Callable[[Any], bool]:
    return lambda value: value in neutral


# Parameters that would change the answer and are not served: name -> whether a value leaves it as it is.
_NOT_SERVED: dict[str, Callable[[Any], bool]] = {
    "tools": _empty,
    "tool_choice": _one_of("none", "auto"),
    "functions": _empty,
    "function_call": _one_of("none", "auto"),
    "response_format": lambda value: isinstance(value, dict) and value.get("type") == "text",
    "structured_outputs": _empty,
    "guided_json": _empty,
    "guided_regex": _empty,
    "guided_choice": _empty,
    "guided_grammar": _empty,
    "logprobs": _empty,
    "top_logprobs": _empty,
    "logit_bias": _empty,
    "frequency_penalty": _one_of(0),
    "presence_penalty": _one_of(0),
    "repetition_penalty": _one_of(1),
    "audio": _empty,
    "modalities": lambda value: value in ([], ["text"]),
    "web_search_options": lambda value: False,
    "min_tokens": _empty,
    "stop_token_ids": _empty,
    "bad_words": _empty,
    "allowed_token_ids": _empty,
    "best_of": _one_of(1),
    "use_beam_search": _empty,
    "echo": _empty,
    "continue_final_message": _empty,
    "add_generation_prompt": _one_of(True),
    "chat_template": _empty,
}


def parse_chat_request(body: bytes) -> ChatRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    try:
        raw = from_json(body, allow_inf_nan=True)
    except ValueError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ApiError(400, "The body must be a JSON object.")
    for name, is_neutral in _NOT_SERVED.items():
        if raw.get(name) is not None and not is_neutral(raw[name]):
            raise ApiError(400, f"{name} is not supported with this value.", param=name, code="unsupported_parameter")
    try:
        return ChatRequest.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"] if not _UNION_BRANCH.fullmatch(str(part)))
        raise ApiError(400, f"{param}: {first['msg']}", param=param, code="invalid_value") from None


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
