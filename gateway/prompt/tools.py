"""The tools that a request offers to the model, and whether it may, must or must not call them.

Schemas only; how calls are written is call_format.py's, how they are asked for in the prompt tool_prompt.py's.

Source: OpenAI API reference, "Create chat completion": tools, tool_choice, parallel_tool_calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.http.errors import ApiError
from gateway.http.validation import Schema, validated

MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]+$", max_length=64)]


class Function(Schema):
    """A function's name and what its arguments are, as a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Schema):
    """One tool; functions are the only ones that are served."""

    type: Literal["function"]
    function: Function


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The functions that may be called; with `must`, one of them has to be, and with `named` just this one is it."""

    functions: tuple[Function, ...]
    required: bool = False
    named: bool = False
    parallel: bool = True


class _Named(Schema):
    name: str


class _NamedChoice(Schema):
    type: Literal["function"]
    function: _Named


class _Allowed(Schema):
    mode: Literal["auto", "required"]
    tools: list[_NamedChoice]


class _AllowedChoice(Schema):
    type: Literal["allowed_tools"]
    allowed_tools: _Allowed


def resolve_tool_use(tools: Sequence[Tool], choice: Any, parallel: bool | None) -> ToolUse | None:
    """What the request wants of its tools; None where none is to be called. Raises ApiError 400."""
    functions = {tool.function.name: tool.function for tool in tools}
    if len(functions) < len(tools):
        raise _invalid("tools", "Two tools have the same name.")
    if not tools:
        if choice in (None, "none", "auto"):
            return None
        raise _invalid("tool_choice", "tool_choice is only allowed when tools are specified.")
    several = parallel is not False
    if choice in (None, "auto", "required"):
        return ToolUse(tuple(functions.values()), required=choice == "required", parallel=several)
    if choice == "none":
        return None
    if not isinstance(choice, dict) or choice.get("type") not in ("function", "allowed_tools"):
        raise _invalid("tool_choice", "tool_choice is none, auto, required, a function, or allowed_tools.")
    if choice["type"] == "function":
        name = validated(_NamedChoice, choice, "tool_choice").function.name
        return ToolUse(_select(functions, [name]), required=True, named=True, parallel=False)
    allowed = validated(_AllowedChoice, choice, "tool_choice").allowed_tools
    names = [tool.function.name for tool in allowed.tools]
    if not names:
        raise _invalid("tool_choice", "allowed_tools names no tool.")
    return ToolUse(_select(functions, names), required=allowed.mode == "required", parallel=several)


def _select(functions: dict[str, Function], names: Sequence[str]) -> tuple[Function, ...]:
    for name in names:
        if name not in functions:
            raise _invalid("tool_choice", f"Tool choice {name!r} is not one of the tools.")
    return tuple(functions[name] for name in dict.fromkeys(names))


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
