"""The parameters of POST /v1/responses beside the shared ones.

Unknown parameters are ignored. Unsupported ones that would change the output are rejected by name, and so are OpenAI's
built-in tools: only the client's own functions can be tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from edgedraft.wire import MAX_TOP_LOGPROBS
from gateway.api.parameters import UNSERVED, Parameters
from gateway.api.responses.items import MAX_INPUT_ITEMS
from gateway.api.responses.tools import chat_format, function_tools, use_of
from gateway.http.errors import ApiError
from gateway.http.validation import Schema, empty, one_of, read_object, refuse_unserved, validated
from gateway.prompt.output_format import OutputFormat
from gateway.prompt.structured_output import StructuredOutputParameters
from gateway.prompt.tools import ToolUse

LOGPROBS = "message.output_text.logprobs"

# What `include` may name: log-probabilities, and encrypted reasoning, which never exists here. Others are rejected.
_INCLUDABLE = {LOGPROBS, "reasoning.encrypted_content"}
_UNSERVED_INCLUDES = {
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
}

Identifier = Annotated[str, Field(max_length=512)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class TextConfig(Schema):
    """`format` is text, json_object or json_schema; `verbosity` is accepted and ignored."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Schema):
    """Accepted and returned, without effect on how long the model reasons."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(Parameters, StructuredOutputParameters):
    """A response's parameters."""

    input: str | Annotated[list[Any], Field(min_length=1, max_length=MAX_INPUT_ITEMS)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    previous_response_id: Identifier | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_output_tokens

    def tool_use(self) -> ToolUse | None:
        """Returns how the model may use the tools. Raises ApiError 400."""
        return use_of(function_tools(self.tools or ()), self.tool_choice, self.parallel_tool_calls)

    def text_format(self) -> OutputFormat | None:
        """Returns the required format of the output text. Raises ApiError 400."""
        output = self.output_format(chat_format(self.text and self.text.format))
        return replace(output, param="text.format") if output and output.param == "response_format" else output

    @property
    def alternatives(self) -> int:
        asked = LOGPROBS in (self.include or ()) or self.top_logprobs
        return (self.top_logprobs or 0) if asked else -1


_UNSERVED: dict[str, Callable[[Any], bool]] = UNSERVED | {
    "n": one_of(1),
    "background": empty,
    "conversation": empty,
    "prompt": empty,
    "context_management": empty,
    "moderation": empty,
}


def parse_responses_request(body: bytes) -> ResponsesRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    raw = read_object(body)
    refuse_unserved(raw, _UNSERVED)
    request = validated(ResponsesRequest, raw)
    for number, name in enumerate(request.include or ()):
        if name in _UNSERVED_INCLUDES:
            message = f"include {name!r} is not supported."
            raise ApiError(400, message, param=f"include.{number}", code="unsupported_value")
        if name not in _INCLUDABLE:
            raise ApiError(400, f"include {name!r} is unknown.", param=f"include.{number}", code="invalid_value")
    return request
