"""The parameters of POST /v1/chat/completions beside the shared ones, and messages in the shape of chat templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from edgedraft.wire import MAX_TOP_LOGPROBS
from gateway.api.parameters import UNSERVED, Metadata, Parameters
from gateway.http.bodies.validation import Integer, Schema, empty, one_of, refuse_unserved, validated
from gateway.http.errors import ApiError
from gateway.limits.request_bounds import (
    MAX_CONTENT_PARTS,
    MAX_MESSAGE_TOOL_CALLS,
    MAX_MESSAGES,
    MAX_NAME_CHARACTERS,
    MAX_TOOLS,
)
from gateway.prompt.content_parts import extract_texts
from gateway.prompt.structured_output import ResponseFormat, StructuredOutputParameters
from gateway.prompt.tools import Function, Tool, Tools, ToolUse, resolve_tool_use


class ContentPart(Schema):
    """One part of a message's content. Only text is supported."""

    type: str
    text: str | None = None
    refusal: str | None = None


Name = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]
Parts = Annotated[list[ContentPart], Field(max_length=MAX_CONTENT_PARTS, fail_fast=True)]


class CalledFunction(Schema):
    """The function of an earlier tool call; `arguments` are a JSON string or an object, or what came of them."""

    name: Name
    arguments: Any = None


class MessageCall(Schema):
    """An earlier tool call that the client sends back."""

    id: Name = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Schema):
    """One message; fields that only some templates use are not validated."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Parts | None = None
    name: Name | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Annotated[list[MessageCall], Field(max_length=MAX_MESSAGE_TOOL_CALLS, fail_fast=True)] | None = None
    tool_call_id: Name | None = None
    function_call: CalledFunction | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class Prediction(Schema):
    """The output that the client expects (OpenAI's Predicted Outputs)."""

    type: Literal["content"]
    content: str | Parts


class ChatRequest(Parameters, StructuredOutputParameters):
    """A chat completion's parameters. `functions` and `function_call` are the older form of tools and tool_choice."""

    messages: Messages
    max_completion_tokens: Annotated[Integer, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    prediction: Prediction | None = None
    metadata: Metadata | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Tools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS)] | None = None
    function_call: Any = None
    response_format: ResponseFormat | None = None

    @property
    def legacy(self) -> bool:
        """Whether tool calls are returned in the older form, `function_call`."""
        return bool(self.functions)

    def tool_use(self) -> ToolUse | None:
        """Returns how the model may use the tools. Raises ApiError 400."""
        if not self.functions:
            return resolve_tool_use(self.tools or (), self.tool_choice, self.parallel_tool_calls)
        if self.tools:
            raise ApiError(400, "functions and tools exclude each other.", param="functions", code="invalid_value")
        choice = self.function_call
        if isinstance(choice, dict):
            choice = {"type": "function", "function": choice}
        return resolve_tool_use(
            [Tool(type="function", function=function) for function in self.functions], choice, False
        )

    @property
    def output_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int:
        return (self.top_logprobs or 0) if self.logprobs else -1


_UNSERVED: dict[str, Callable[[Any], bool]] = UNSERVED | {
    "best_of": one_of(1),
    "echo": empty,
    "audio": empty,
    "modalities": lambda value: value in ([], ["text"]),
    "web_search_options": lambda value: False,
    "continue_final_message": empty,
    "add_generation_prompt": one_of(True),
    "chat_template": empty,
}


def parse_chat_request(raw: Mapping[str, Any]) -> ChatRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    refuse_unserved(raw, _UNSERVED)
    request = validated(ChatRequest, raw)
    if request.top_logprobs and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs", code="invalid_value")
    if request.prediction and request.choices > 1:
        raise _not_with_prediction("n")
    if request.prediction and raw.get("tools"):
        raise _not_with_prediction("tools")
    return request


def _not_with_prediction(param: str) -> ApiError:
    return ApiError(400, f"{param} cannot be combined with prediction.", param=param, code="unsupported_parameter")


def predicted_text(prediction: Prediction) -> str:
    """Raises ApiError 400 for content other than text."""
    return "".join(extract_texts(prediction.content, "prediction.content", ("text",)))


def template_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as chat templates take them, but for arguments of calls.

    Raises ApiError 400 for content other than text.
    """
    rendered = [_template_message(index, message) for index, message in enumerate(messages)]
    call_id = ""
    for message, original in zip(rendered, messages, strict=True):
        # Calls in the older form have no ids, and some templates want them.
        if original.function_call:
            call_id = message["tool_calls"][-1]["id"]
        elif original.role == "function":
            message.setdefault("tool_call_id", call_id)
    return rendered


def _template_message(index: int, message: ChatMessage) -> dict[str, Any]:
    role = "tool" if message.role == "function" else message.role
    rendered: dict[str, Any] = {"role": role, "content": _content(index, message)}
    if message.name is not None:
        rendered["name"] = message.name
    if isinstance(reasoning := message.reasoning_content or message.reasoning, str):
        rendered["reasoning_content"] = reasoning
    calls = message.tool_calls or []
    if message.function_call:
        calls = [*calls, MessageCall(id=f"call{index % 100_000:05}", function=message.function_call)]
    if calls:
        rendered["tool_calls"] = [_template_call(call) for call in calls]
    if message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def _content(index: int, message: ChatMessage) -> str:
    param = f"messages.{index}.content"
    if message.content is None:
        if message.role != "assistant":
            raise ApiError(400, f"{param} is missing.", param=param, code="invalid_value")
        return ""
    return "".join(extract_texts(message.content, param, ("text",)))


def _template_call(call: MessageCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}
