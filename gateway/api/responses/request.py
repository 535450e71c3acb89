"""The parameters of POST /v1/responses beside the shared ones.

Unknown parameters are ignored. Unsupported ones that would change the output are rejected by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from edgedraft.wire import MAX_TOP_LOGPROBS
from gateway.api.parameters import UNSERVED, Metadata, Parameters
from gateway.api.responses.items import Identifier
from gateway.api.responses.tools import ToolSet, chat_format
from gateway.http.bodies.validation import Integer, Schema, empty, one_of, refuse_unserved, validated
from gateway.limits.request_bounds import MAX_INCLUDES, MAX_INPUT_ITEMS, MAX_TOOLS
from gateway.prompt.output_format import OutputFormat
from gateway.prompt.structured_output import StructuredOutputParameters
from gateway.prompt.tools import ToolUse

LOGPROBS = "message.output_text.logprobs"

Level = Annotated[str, Field(max_length=64)]  # new ones keep coming, and none has an effect


class TextConfig(Schema):
    """`format` is text, json_object or json_schema; `verbosity` is accepted and ignored."""

    format: dict[str, Any] | None = None
    verbosity: Level | None = None


class Reasoning(Schema):
    """Accepted and returned, without effect on how long the model reasons."""

    effort: Level | None = None
    summary: Level | None = None


class ResponsesRequest(Parameters, StructuredOutputParameters):
    """A response's parameters."""

    input: str | Annotated[list[Any], Field(min_length=1, max_length=MAX_INPUT_ITEMS)]
    instructions: str | None = None
    max_output_tokens: Annotated[Integer, Field(ge=1)] | None = None
    previous_response_id: Identifier | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Nothing but log-probabilities can be included: there are no hosted tools, and no encrypted reasoning.
    include: Annotated[list[str], Field(max_length=MAX_INCLUDES)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    max_tool_calls: Annotated[Integer, Field(ge=1)] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def output_limit(self) -> int | None:
        return self.max_output_tokens

    @cached_property
    def tool_set(self) -> ToolSet:
        """Raises ApiError 400 for invalid tools."""
        return ToolSet.read(self.tools or ())

    def tool_use(self) -> ToolUse | None:
        """Returns how the model may use the tools. Raises ApiError 400."""
        return self.tool_set.use(self.tool_choice, self.parallel_tool_calls)

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


def parse_responses_request(raw: Mapping[str, Any]) -> ResponsesRequest:
    """Raises ApiError 400 that names the parameter at fault."""
    refuse_unserved(raw, _UNSERVED)
    return validated(ResponsesRequest, raw)
