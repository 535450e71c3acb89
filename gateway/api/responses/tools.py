"""Translates tools and text formats of the Responses API to those of chat completions (gateway/prompt/tools.py).

OpenAI's built-in tools are rejected by name: the gateway executes no tools, it only returns calls to the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from gateway.http.errors import ApiError
from gateway.http.validation import Schema, validated
from gateway.prompt.structured_output import NamedSchema, ResponseFormat
from gateway.prompt.tools import MAX_TOOLS, Function, FunctionName, Tool, ToolUse, resolve_tool_use


class FunctionTool(Schema):
    """A function; the fields that chat completions nest under `function` are at the root."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _NamedChoice(Schema):
    type: Literal["function"]
    name: str


class _AllowedChoice(Schema):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[_NamedChoice]


def function_tools(given: Sequence[dict[str, Any]]) -> tuple[FunctionTool, ...]:
    """Raises ApiError 400 for tools that are not the client's functions."""
    if len(given) > MAX_TOOLS:
        raise ApiError(400, f"tools: at most {MAX_TOOLS}.", param="tools", code="invalid_value")
    for number, tool in enumerate(given):
        if tool.get("type") != "function":
            message = f"The tool {tool.get('type')!r} is not supported; tools of the type 'function' are."
            raise ApiError(400, message, param=f"tools.{number}.type", code="unsupported_tool")
    return tuple(validated(FunctionTool, tool, f"tools.{number}") for number, tool in enumerate(given))


def use_of(tools: Sequence[FunctionTool], choice: str | dict[str, Any] | None, parallel: bool | None) -> ToolUse | None:
    """Returns how the model may use the tools; None if it may call none. Raises ApiError 400."""
    functions = [
        Function(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
        for tool in tools
    ]
    chat_tools = [Tool(type="function", function=function) for function in functions]
    return resolve_tool_use(chat_tools, _chat_choice(choice), parallel)


def chat_format(given: dict[str, Any] | None) -> ResponseFormat | None:
    """`text.format` as chat completions' response_format. Raises ApiError 400."""
    if given is None:
        return None
    fields = dict(given)
    kind = fields.pop("type", None)
    if kind not in ("text", "json_object", "json_schema"):
        message = "text.format.type: text, json_object or json_schema."
        raise ApiError(400, message, param="text.format.type", code="invalid_value")
    if kind != "json_schema":
        return ResponseFormat(type=kind)
    if fields.get("schema") is None:
        raise ApiError(400, "text.format.schema is missing.", param="text.format.schema", code="invalid_value")
    return ResponseFormat(type=kind, json_schema=validated(NamedSchema, fields, "text.format"))


def _chat_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """Raises ApiError 400 for a choice of built-in tools."""
    if choice is None or isinstance(choice, str):
        return choice
    match choice.get("type"):
        case "function":
            return _chat_named(validated(_NamedChoice, choice, "tool_choice"))
        case "allowed_tools":
            allowed = validated(_AllowedChoice, choice, "tool_choice")
            tools = [_chat_named(tool) for tool in allowed.tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": allowed.mode, "tools": tools}}
        case other:
            message = f"tool_choice {other!r} is not supported: none, auto, required, a function, or allowed_tools."
            raise ApiError(400, message, param="tool_choice", code="unsupported_tool")


def _chat_named(choice: _NamedChoice) -> dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}}
